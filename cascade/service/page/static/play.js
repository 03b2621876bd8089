// The playground: the draft while it is written, the decision about it, then the answer.
import { $, dollars, el, refused } from "./dom.js";
import { meter } from "./charts.js";

let running = null;

// Server-sent events of a response that a POST has begun.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const [, name, data] = part.match(/^event: (.*)\ndata: (.*)$/) ?? [];
      if (name) yield [name, JSON.parse(data)];
    }
  }
}

class Answer {
  constructor() { this.current = null; $("steps").replaceChildren(); $("answer").hidden = false; }
  begin(kind, title) {
    this.end();
    this.text = el("div", { class: "text" });
    this.current = el("li", { "data-kind": kind, class: "open" }, el("h4", {}, title), this.text);
    $("steps").append(this.current);
    this.kind = kind;
  }
  end() { this.current?.classList.remove("open"); this.current = null; }
  write(kind, title, words) { if (!this.current || this.kind !== kind) this.begin(kind, title); this.text.append(words); if (kind === "draft") this.draft = this.current; }
  provisional({ tier, text }) { this.write("draft", `${tier} drafts: nothing is decided yet`, text); }
  token({ tier, text }) { this.answered = true; this.write("answer", `Answer from ${tier}`, text); }
  retracted({ reason }) {
    this.answered = false;
    const shown = this.current ?? this.draft;
    if (shown) { shown.classList.add("withdrawn"); shown.querySelector("h4").textContent = "Withdrawn"; }
    if (!this.decision) this.note("decided", "Withdrawn", reason);
  }
  decided(d) {
    this.end();
    this.decision = d;
    const what = { accept: "accepted", escalate: "escalated", observe: "one more signal", abstain: "no answer on purpose", ask: "a person is asked" }[d.action] ?? d.action;
    this.note("decided", `Decision: ${what}`, d.reason);
    if (d.confidence !== null) $("steps").lastElementChild.append(meter(d.confidence, d.threshold));
    this.answered = d.action === "accept" && Boolean(this.draft);
    if (this.answered) this.draft.querySelector("h4").textContent = `Answer: the draft of ${d.tier}`;
    $("state").textContent = `${what}: ${d.reason}`;
  }
  note(kind, title, words) { this.end(); $("steps").append(el("li", { "data-kind": kind }, el("h4", {}, title), el("div", { class: "text" }, words))); }
  done(r) {
    this.end();
    if (r.answer && !this.answered) this.note("answer", `Answer from ${r.tier}`, r.answer);
    const cost = r.cost_usd === null ? "cost unknown" : `cost ${dollars(r.cost_usd)}`;
    const saved = r.saved_usd === null ? "saving unknown" : `saved ${r.saved_basis === "estimated" ? "about " : ""}${dollars(r.saved_usd)}`;
    $("state").textContent = `Done: answered by ${r.tier}${r.degraded ? ", as the large model could not be had" : ""}; ${cost}, ${saved}.`;
  }
  error({ message }) { this.note("error", "It failed", message); $("state").textContent = "Failed."; }
}

function busy(on) { $("send").disabled = on; $("cancel").disabled = !on; $("answer").setAttribute("aria-busy", String(on)); }

async function ask() {
  if (running) return;
  running = new AbortController();
  busy(true);
  const answer = new Answer();
  $("state").textContent = "Asking …";
  try {
    const response = await fetch("/page/api/play", { method: "POST", signal: running.signal, headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ model: $("model").value, question: $("question").value, local_only: $("local").checked }) });
    if (!response.ok) throw await refused(response);
    let ended = false;
    for await (const [name, data] of events(response)) {
      if (typeof answer[name] === "function") answer[name](data);
      ended ||= name === "done" || name === "error";
    }
    if (!ended) answer.error({ message: "The connection ended before the answer did." });
  } catch (error) {
    if (error.name === "AbortError") { answer.end(); answer.note("error", "Cancelled", "What was spent until then is in the ledger."); $("state").textContent = "Cancelled."; }
    else answer.error({ message: error.message });
  } finally { answer.end(); running = null; busy(false); }
}

export function readyToPlay(cascades) {
  $("model").replaceChildren(...cascades.map((c) => el("option", { value: c.name }, `${c.name}: ${c.tiers.map((t) => t.model).join(" → ")}`)));
  $("ask").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
  $("question").addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("ask").requestSubmit(); });
  $("cancel").addEventListener("click", () => running?.abort());
}
