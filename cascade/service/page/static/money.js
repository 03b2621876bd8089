// What was saved: the headline, the bill, the tables, the days.
import { $, count, counted, dollars, el, empty, fact, get, num, percent, svg } from "./dom.js";
import { bar, bill, perDay, rate } from "./charts.js";

const ICONS = { saves: "M5 12.5l4.5 4.5L19 7.5", loses: "M7 7l10 10M17 7L7 17", open: "M9.2 9a2.9 2.9 0 1 1 4.1 3.2c-1 .5-1.3 1-1.3 2.1M12 17.6v.2" };
const WORDS = { saves: "It saves money", loses: "It loses money: switch it off", "cannot tell yet": "It is too early to tell" };
const EXAMPLE = () => `from openai import OpenAI\n\nclient = OpenAI(base_url="${location.origin}/v1", api_key="csk_…")`;
const MOST_DAYS = 31;
const NODES = { draft: "the small model's answers", self_check: "how sure they are", verify: "accepted drafts, which the large model need not answer", expert: "the large model's answers, their own baseline", audit: "accepted drafts that were checked", shadow: "drafts beside the large model", memory: "examples that drafts were shown", trial: "calls after the reply, to see whether examples help", route: "where to begin" };
let tables = [];

export function showMoney({ report: r, words }) {
  showClaim(r);
  showQuality(r, words);
  showVerdict(r);
  showBill(r);
  showTags(r.tables);
  tables = r.tables.filter((t) => t.lines.some((l) => l.name));
  const by = $("by"), chosen = by.value || "node";
  by.replaceChildren(...tables.map((t) => el("option", { value: t.by, selected: t.by === chosen }, t.by.replace("tag:", "tag "))));
  showTable(r.total);
  by.onchange = () => showTable(r.total);
  $("where").hidden = $("days").hidden = !r.requests;
  if (r.requests) showDays(r.days.slice(-MOST_DAYS));
  $("foot").textContent = `${words.period} Every figure is a sum over ledger entries; what accepted drafts would have cost with the large model is estimated from random audits. Days are in UTC.`;
}

function showClaim(r) {
  const s = r.saving.saving, verified = r.verified_usd !== null;
  $("saving-title").textContent = verified ? "Verified net saving" : r.requests ? "Net saving, not verified" : "Net saving";
  $("headline").textContent = !r.requests ? "–" : verified ? dollars(r.verified_usd) : `${dollars(s.low)} to ${dollars(s.high)}`;
  const share = verified && r.verified_share !== null ? `, ${percent(r.verified_share)} of the large-only bill` : "";
  $("interval").textContent = !r.requests ? "Nothing has been asked in this period."
    : r.status === "measured" ? `Measured${share}: every baseline is known.`
    : verified ? `or more, with 95 % confidence${share}. Best guess ${dollars(s.value)}, between ${dollars(s.low)} and ${dollars(s.high)}.`
    : r.status === "unknown" ? `${counted(r.total.unpriced, "call")} have no known cost, so nothing can be claimed.`
    : "Assumed limits: no accepted draft has been audited yet.";
}

function showQuality(r, words) {
  const q = r.quality, audited = q !== null && (q.loss.audits > 0 || q.loss.basis === "measured");
  $("quality").textContent = !r.requests ? "–" : audited ? `at most ${percent(q.loss.high, 2)}` : "not known yet";
  $("quality-note").textContent = !r.requests ? "" : audited
    ? `per request, with 95 % confidence; at most ${percent(q.error_rate.high)} of the accepted drafts are worse than the large model's answer (${counted(q.loss.audits, "audit")}).`
    : words.quality_claim || "No accepted draft could be audited: set audit_rate.";
}

function showVerdict(r) {
  const kind = r.verdict === "cannot tell yet" ? "open" : r.verdict;
  $("verdict").dataset.kind = kind;
  const icon = svg("svg", { viewBox: "0 0 24 24", width: 26, height: 26, "aria-hidden": "true" }, svg("circle", { cx: 12, cy: 12, r: 10.5 }), svg("path", { d: ICONS[kind] }));
  const reason = r.requests ? `${WORDS[r.verdict]}: ` : "No requests yet. ";
  const next = r.requests ? r.advice : "Point your client at this service, and each request appears here.";
  $("verdict").replaceChildren(icon, el("p", {}, el("b", {}, reason), r.requests ? `${r.reason}.` : ""), el("p", { class: "soft" }, next));
}

function showBill(r) {
  if (!r.requests) {
    $("bill").replaceChildren(empty("No requests in this period", "Change the base URL of your client, or choose a longer period above.", EXAMPLE()));
    $("facts").replaceChildren();
    return;
  }
  const { baseline: b, saving: s, measured_usd: measured, estimated_usd: estimated } = r.saving;
  bill($("bill"), { alone: b.value, low: b.low, high: b.high, spent: b.value - s.value, words: dollars });
  const t = r.total, e = r.escalation;
  $("facts").replaceChildren(
    fact("Saved, measured part", dollars(measured), "known baselines, all costs taken off"),
    fact("Saved, estimated part", dollars(estimated), "accepted drafts without an audit"),
    fact("Requests", count(r.requests), e ? `${percent(e.value)} went to the large model` : null),
    fact("Audits", count(r.audits), r.needed.missing ? `${count(r.needed.missing)} more for ±${+(r.needed.precision * 100).toFixed(2)} points` : "enough for the wanted precision"),
    t.unknown ? fact("Calls of unknown cost", count(t.unknown), `${dollars(t.assumed_usd)} assumed for them`) : "",
  );
  $("remarks").hidden = !r.remarks.length;
  $("remarks").querySelector("ul").replaceChildren(...r.remarks.map((text) => el("li", {}, text)));
}

function showTable(total) {
  const table = tables.find((t) => t.by === $("by").value) ?? tables[0];
  if (!table) return;
  const saved = (l) => num(l.saved_measured_usd) + num(l.saved_estimated_usd);
  const ends = table.lines.flatMap((l) => [0, num(l.saved_measured_usd), saved(l)]), low = Math.min(...ends), high = Math.max(...ends);
  const cells = (l, css) => el("tr", { class: css }, el("th", { scope: "row" }, el("span", { title: l.name }, l.name || "–"), table.by === "node" && NODES[l.name] ? el("small", { class: "opt" }, NODES[l.name]) : null),
    el("td", {}, dollars(saved(l))), el("td", { class: "bar" }, css ? "" : bar(num(l.saved_measured_usd), num(l.saved_estimated_usd), low, high)),
    el("td", { class: "opt" }, dollars(l.saved_measured_usd)), el("td", { class: "opt" }, dollars(l.saved_estimated_usd)),
    el("td", { class: "opt" }, dollars(l.cost_usd) + (l.unpriced ? " +?" : "")), el("td", { class: "opt" }, count(l.entries)));
  const heads = [["", ""], ["saved", ""], ["", "bar"], ["measured", "opt"], ["estimated", "opt"], ["cost", "opt"], ["entries", "opt"]];
  $("table").replaceChildren(el("table", {}, el("thead", {}, el("tr", {}, heads.map(([h, css]) => (h ? el("th", { scope: "col", class: css }, h) : el("td", { class: css }))))),
    el("tbody", {}, table.lines.map((l) => cells(l)), cells(total, "sum"))));
}

function showDays(days) {
  const decided = days.filter((d) => d.escalation);
  perDay($("per-day"), days, dollars);
  if (decided.length) rate($("escalation"), decided);
  else $("escalation").replaceChildren(el("p", { class: "soft" }, "No draft has been decided about."));
  const heads = ["day, UTC", "requests", "escalated", "saved", "at least", "at most", "audits"];
  const row = (d) => [count(d.requests), d.escalation ? percent(d.escalation.value) : "–", dollars(d.saving.value), dollars(d.saving.low), dollars(d.saving.high), count(d.saving.audits)];
  $("days-table").querySelector(".wide").replaceChildren(el("table", {}, el("thead", {}, el("tr", {}, heads.map((h) => el("th", { scope: "col" }, h)))),
    el("tbody", {}, days.map((d) => el("tr", {}, el("th", { scope: "row" }, d.day), row(d).map((cell) => el("td", {}, cell)))))));
}

// Which requests are looked at: all, or those with one value of a tag.
function showTags(all) {
  const select = $("tag");
  if (select.value) return;
  const values = all.filter((t) => t.by.startsWith("tag:")).flatMap((t) => t.lines.filter((l) => l.name).map((l) => [t.by.slice(4), l.name]));
  $("tag-box").hidden = values.length < 2;
  select.replaceChildren(el("option", { value: "" }, "All requests"), ...values.slice(0, 60).map(([key, value]) => el("option", { value: `${key}=${value}` }, `${key}: ${value}`)));
}

export const fetchMoney = (query) => get(`/page/api/report?${query}`);
