// The last requests, each with its way through the graph; new ones arrive by themselves.
import { $, clock, dollars, el, empty, get, seconds } from "./dom.js";

const SHOWN = 40, SAY_EVERY = 1500;
const NAMES = { self_check: "check", expert: "large model", ask: "person" };
const ENDS = { accepted: "✓ draft accepted", escalated: "↑ escalated", degraded: "! large model down", abstained: "○ no answer", interrupted: "? asks a person", failed: "✕ failed", cancelled: "✕ cancelled", abandoned: "✕ abandoned" };
const money = (amount, basis) => (amount === null ? "cost unknown" : `${basis === "estimated" ? "≈ " : ""}${dollars(amount)}`);

function step(s) {
  const facts = [s.cost_usd === null ? "cost unknown" : dollars(s.cost_usd), s.latency_ms ? seconds(s.latency_ms / 1000) : "", s.confidence === null ? "" : `confidence ${s.confidence.toFixed(2)}`].filter(Boolean);
  const did = s.outcome !== "ok" ? s.outcome : s.action ?? "";
  return el("li", {}, el("span", { class: "step", "data-node": s.node, "data-outcome": s.outcome }, el("b", {}, NAMES[s.node] ?? s.node), s.model ? ` ${s.model}` : "", did ? `: ${did}` : "", el("small", {}, facts.join(" · "))));
}

function item(r, fresh) {
  const sure = r.confidence === null ? "" : `${r.calibrated ? "confidence" : "score"} ${r.confidence.toFixed(2)}${r.threshold === null ? "" : ` / ${r.threshold.toFixed(2)}`}`;
  return el("li", { class: fresh ? "new" : null, "data-run": r.run_id },
    el("div", { class: "sum-line" }, el("time", { datetime: r.at }, clock(r.at)), el("span", { class: "name" }, r.cascade),
      el("span", { class: "badge", "data-kind": r.outcome, title: r.decision }, ENDS[r.outcome] ?? r.outcome), r.error ? el("span", { class: "soft" }, r.error) : null, sure ? el("span", { class: "soft" }, sure) : null,
      el("span", { class: "end" }, el("span", {}, money(r.cost_usd, r.cost_basis)), el("span", { class: "soft" }, r.saved_usd === null ? "saving unknown" : `saved ${money(r.saved_usd, r.saved_basis)}`), el("span", { class: "soft" }, seconds(r.seconds)))),
    el("ol", { class: "path", "aria-label": "Its way" }, r.steps.map(step)));
}

function nothing() {
  $("list").replaceChildren(el("li", { class: "empty" }, el("p", {}, "No requests yet since the service started"), el("p", { class: "soft" }, "Point your client at this address, or ask in the playground below."),
    el("pre", { tabindex: 0, "aria-label": "Example" }, `curl ${location.origin}/v1/chat/completions \\\n  -H "Authorization: Bearer csk_…" -H "Content-Type: application/json" \\\n  -d '{"model": "…", "messages": [{"role": "user", "content": "Hello"}]}'`)));
}

// Tells a screen reader, not more often than it can speak.
let waiting = 0;
function say(r) {
  waiting += 1;
  if (waiting > 1) return;
  setTimeout(() => {
    $("arrived").textContent = waiting === 1 ? `New request: ${r.outcome}, ${money(r.cost_usd, r.cost_basis)}` : `${waiting} new requests`;
    waiting = 0;
  }, SAY_EVERY);
}

// Lists what there is, then listens; `changed` is told of each arrival.
export async function watchRequests(changed) {
  const { epoch, requests } = await get("/page/api/requests");
  if (requests.length) $("list").replaceChildren(...requests.slice(-SHOWN).reverse().map((r) => item(r)));
  else nothing();
  const last = requests.length ? requests[requests.length - 1].number : 0;
  const live = (on, words) => { $("live").dataset.state = on; $("live").textContent = words; };
  const source = new EventSource(`/page/api/events?after=${epoch}-${last}`);
  source.onopen = () => live("on", "live");
  source.onerror = () => {
    live("off", source.readyState === EventSource.CLOSED ? "not connected: reload the page" : "connecting again");
    if (source.readyState === EventSource.CLOSED) get("/page/api/service").catch(() => {});
  };
  source.addEventListener("request", (event) => {
    const r = JSON.parse(event.data), list = $("list");
    if (list.querySelector(".empty")) list.replaceChildren();
    list.prepend(item(r, true));
    while (list.children.length > SHOWN) list.lastElementChild.remove();
    say(r);
    changed();
  });
}
