// The slider: what each threshold would have given on the requests that were recorded.
import { $, count, counted, dollars, el, empty, fact, get, percent } from "./dom.js";
import { curve, histogram, reliability } from "./charts.js";

let found = null, picked = null, cascades = [];
const at = (c) => c.threshold.toFixed(2);

export const knowCascades = (list) => { cascades = list; };
export const fetchThresholds = (query) => get(`/page/api/thresholds?${query}`);

// The step that decides most like the decisions that were made.
function nearest(choices, made) {
  const own = cascades.length === 1 ? cascades[0].threshold : null;
  const off = (c) => (own === null ? Math.abs(c.escalated.value - made.escalated.value) : Math.abs(c.threshold - own));
  return choices.reduce((best, c, i) => (off(c) < off(choices[best]) ? i : best), 0);
}

export function showThresholds({ thresholds, reliability: groups }) {
  if ($("threshold")?.matches(":active")) return; // it is being dragged
  const body = $("whatif-body");
  const focused = document.activeElement?.id === "threshold";
  found = thresholds;
  $("sure").replaceChildren();
  body.className = thresholds ? "panel" : "";
  if (!thresholds) {
    body.replaceChildren(empty("No draft has been decided about yet", "The slider tries other thresholds on recorded requests. For a confidence that is a probability, calibrate on 50 to 300 examples.", "cascade calibrate examples.jsonl --small … --large … --out support.json"));
    return;
  }
  const { choices, made } = thresholds;
  if (picked === null || picked >= choices.length) picked = nearest(choices, made);
  const slider = el("input", { type: "range", id: "threshold", min: 0, max: choices.length - 1, step: 1, value: picked, "aria-describedby": "slide-hint", on: { input: () => { picked = Number(slider.value); showPicked(); } } });
  slider.value = picked;
  body.replaceChildren(
    el("div", { class: "slide" }, el("label", { for: "threshold" }, "Threshold"), slider, el("output", { id: "threshold-value", for: "threshold" }), el("p", { class: "hint", id: "slide-hint" }, hint(thresholds))),
    el("div", { class: "what" }, el("dl", { class: "facts", id: "outcome" }), el("div", {}, el("div", { id: "curve", class: "chart" }), key())),
    el("div", { class: "remark" }, known(thresholds).map((text) => el("p", {}, text))));
  $("sure").replaceChildren(
    el("div", { class: "panel" }, el("h3", {}, "How sure the drafts were"), el("div", { id: "histogram", class: "chart" }), el("p", { class: "key" }, el("span", {}, "accepted"), el("span", { class: "upper" }, "escalated"))),
    el("div", { class: "panel" }, el("h3", {}, "And how often they were right"), groups.length ? el("div", { id: "reliability", class: "chart" }) : empty("Not known yet", "This needs audits: set audit_rate, for instance 0.05, and a share of accepted drafts is compared with the large model."),
      groups.length ? el("p", { class: "key" }, el("span", {}, "audited drafts, 95 %"), el("span", { class: "dotted" }, "as it should be")) : null));
  if (groups.length) reliability($("reliability"), groups);
  showPicked();
  if (focused) slider.focus();
}

const key = () => el("p", { class: "key" }, el("span", {}, "every threshold, with what is not known"), el("span", { class: "ring" }, "as decided"), el("span", { class: "point" }, "the slider"));
const hint = (t) => `Tried on the last ${counted(t.requests, "request")}; a draft with this confidence or more is accepted. Arrow keys move it.`;

function known(t) {
  const calibrated = cascades.filter((c) => c.calibration);
  return [
    t.audits ? `Errors are known from ${counted(t.audits, "audited draft")}. Drafts that were escalated were not compared: there the range runs from all right to all wrong.`
      : "Errors are not known: no draft has been audited. Set audit_rate, for instance 0.05, in the configuration.",
    t.calibrated === 1 ? "Confidence is calibrated: it is the probability that a draft is right."
      : t.calibrated ? `Confidence is calibrated, a probability that a draft is right, on ${percent(t.calibrated)} of these drafts, and a raw score on the others.`
      : "Confidence is a raw score, not calibrated yet: it orders drafts and is no probability. cascade calibrate makes one of it.",
    ...calibrated.map((c) => `${c.name}: calibrated on ${count(c.calibration.quality.n)} examples; calibration error ${percent(c.calibration.quality.ece)}, AUROC ${c.calibration.quality.auroc?.toFixed(2) ?? "unknown"}.`),
  ];
}

function harm(h) {
  if (h.high === 0) return ["none", "no draft would be accepted"];
  const range = `${percent(h.low)} to ${percent(h.high)}`;
  if (h.value === null) return [`up to ${percent(h.high)}`, "nobody compared these drafts"];
  return [percent(h.value), `${range} of requests, 95 %, from ${h.source}`];
}

function showPicked() {
  const { choices, made, confidences } = found, c = choices[picked], slider = $("threshold");
  const [wrong, note] = harm(c.harm), up = c.escalated, change = c.saving.value - made.saving.value;
  const less = Math.abs(change) < 1e-9 ? "as decided" : `${dollars(Math.abs(change))} ${change > 0 ? "more" : "less"} than as decided`;
  $("threshold-value").textContent = at(c);
  slider.setAttribute("aria-valuetext", `${at(c)}: ${percent(up.value)} escalated, cost ${dollars(c.cost_usd)}, saving ${dollars(c.saving.value)}, accepted and wrong ${wrong}`);
  $("outcome").replaceChildren(
    fact("Escalated", percent(up.value), `${percent(up.low)} to ${percent(up.high)}`),
    fact("Cost", dollars(c.cost_usd), `${percent(1 - c.share.value, 0)} of the large model alone`),
    fact("Saving", dollars(c.saving.value), `${dollars(c.saving.low)} to ${dollars(c.saving.high)}; ${less}`),
    fact("Accepted and wrong", wrong, note));
  curve($("curve"), choices, made, c);
  histogram($("histogram"), confidences, c.threshold);
}
