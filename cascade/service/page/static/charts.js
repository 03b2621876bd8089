// Charts as SVG, drawn at the width that there is, so that letters keep their size on a phone.
import { svg } from "./dom.js";

const drawn = new WeakMap();
const watcher = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const kept = drawn.get(target);
    if (kept && target.clientWidth && target.clientWidth !== kept.width) paint(target, kept.make);
  }
});
function paint(box, make) {
  drawn.set(box, { make, width: box.clientWidth });
  box.replaceChildren(make(box.clientWidth || 480));
}
export function draw(box, make) {
  if (!drawn.has(box)) watcher.observe(box);
  paint(box, make);
}

function ticks(low, high, about = 5) {
  const rough = (high - low) / about, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough * (1 - 1e-9));
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
  return found;
}
// Decimals that the steps between ticks need; dollars have none, or two at least.
function decimals(values) {
  const step = values.length > 1 ? values[1] - values[0] : values[0] || 1, power = Math.floor(Math.log10(Math.abs(step)) + 1e-9);
  return step >= 1 && Number.isInteger(step) ? 0 : Math.max(2, -power + (Math.abs(step / 10 ** power - 2.5) < 1e-6 ? 1 : 0));
}
const text = (x, y, words, anchor = "start", css = "tick") => svg("text", { x: x.toFixed(1), y: y.toFixed(1), "text-anchor": anchor, class: css }, words);
const line = (x1, y1, x2, y2, css) => svg("path", { class: css, d: `M${x1.toFixed(1)} ${y1.toFixed(1)}L${x2.toFixed(1)} ${y2.toFixed(1)}` });
const rect = (x, y, width, height, css, more) => svg("rect", { x: x.toFixed(1), y: y.toFixed(1), width: Math.max(0, width).toFixed(1), height: Math.max(0, height).toFixed(1), class: css, ...more });
const path = (points, css) => svg("path", { class: css, d: `M${points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L")}` });
const whisker = (x, low, high) => [line(x, low, x, high, "whisker"), line(x - 3, low, x + 3, low, "whisker"), line(x - 3, high, x + 3, high, "whisker")];
const shareWords = (v) => `${+(v * 100).toFixed(1)} %`;
const dot = (x, y, r, css) => svg("circle", { cx: x.toFixed(1), cy: y.toFixed(1), r, class: css });

// A plane with axes; `x` and `y` are [low, high].
function plane(width, { height = 230, x, y, xTicks, yTicks, xName, yName, xWords = String, yWords = String, label }) {
  const left = 12 + 7 * Math.max(...yTicks.map((v) => yWords(v).length)), right = width - 12, top = yName ? 26 : 12, bottom = height - (xName ? 40 : 24);
  const scale = (ends, from, to) => (v) => from + ((v - ends[0]) / (ends[1] - ends[0] || 1)) * (to - from);
  const X = scale(x, left, right), Y = scale(y, bottom, top);
  const box = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  for (const v of yTicks) box.append(line(left, Y(v), right, Y(v), "grid"), text(left - 8, Y(v) + 4, yWords(v), "end"));
  for (const v of xTicks) box.append(text(Math.min(X(v), right - 8), bottom + 18, xWords(v), "middle"));
  box.append(line(left, bottom, right, bottom, "base"), text(0, 12, yName), text(right, height - 4, xName, "end"));
  return { box, X, Y, left, right, top, bottom };
}

// The large-only bill beside what was spent; the gap between them is the saving.
export function bill(box, { alone, low, high, spent, words }) {
  draw(box, (width) => {
    const most = Math.max(high, spent, alone) || 1, X = (v) => (v / most) * (width - 2) + 1;
    const label = `Large model alone ${words(alone)}, between ${words(low)} and ${words(high)}. With the cascade ${words(spent)}.`;
    const out = svg("svg", { viewBox: `0 0 ${width} 122`, role: "img", "aria-label": label });
    const row = (y, name, value, css) => out.append(text(0, y, name), text(width, y, words(value), "end", "strong"), rect(0, y + 8, X(value), 24, css, { rx: 4 }));
    row(13, "Large model alone", alone, "big");
    if (high > low) out.append(...[[low, low], [low, high], [high, high]].map(([a, b]) => line(X(a), a === b ? 27 : 33, X(b), a === b ? 39 : 33, "whisker")));
    row(77, "With the cascade", spent, "cost");
    if (alone > spent) {
      out.append(rect(X(spent) + 2, 85.7, X(alone) - X(spent) - 3, 22.6, "saved", { rx: 4 }));
      if (X(alone) - X(spent) > 130) out.append(text((X(spent) + X(alone)) / 2, 101, `${words(alone - spent)} less`, "middle", "strong"));
    }
    return out;
  });
}

// One row of a table: what was earned to the right of zero, what was spent to its left.
export function bar(measured, estimated, low, high) {
  const width = 300, X = (v) => ((v - low) / (high - low || 1)) * width, zero = X(0);
  const out = svg("svg", { viewBox: `0 0 ${width} 18`, preserveAspectRatio: "none", "aria-hidden": "true" });
  if (measured < 0) out.append(rect(X(measured), 3, zero - X(measured), 12, "cost"));
  const from = Math.max(0, measured);
  if (from > 0) out.append(rect(zero, 3, X(from) - zero, 12, "good"));
  if (estimated > 0) out.append(rect(X(from), 3, X(from + estimated) - X(from), 12, "", { fill: "url(#hatch)" }));
  out.append(svg("path", { class: "base", d: `M${zero} 0V18`, "vector-effect": "non-scaling-stroke" }));
  return out;
}

// Ends of an axis; the interval of a day with hardly an audit may leave the chart.
function spread(days) {
  const values = days.map((d) => d.saving.value), middle = (all) => all.sort((a, b) => a - b)[Math.floor(all.length * 0.8)];
  const room = 1.5 * Math.max(...values.map(Math.abs), 1e-12);
  const high = Math.max(0, ...values, Math.min(room, middle(days.map((d) => d.saving.high)))), low = Math.min(0, ...values, Math.max(-room, -middle(days.map((d) => -d.saving.low))));
  const air = 0.08 * (high - low) || 1;
  return [low < 0 ? low - air : 0, high > 0 ? high + air : air];
}
let clips = 0;
function clipped({ box: out, left, top, right, bottom }) {
  const id = `clip-${(clips += 1)}`;
  const part = svg("g", { "clip-path": `url(#${id})` });
  out.append(svg("clipPath", { id }, rect(left, top, right - left, bottom - top, "")), part);
  return part;
}
const short = (day) => new Date(`${day}T00:00Z`).toLocaleDateString("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });
function daily(width, days, more) {
  const every = Math.max(1, Math.ceil((days.length * 52) / width));
  const marked = days.map((_, i) => i).filter((i) => (days.length - 1 - i) % every === 0);
  return plane(width, { x: [-0.5, days.length - 0.5], xTicks: marked, xWords: (i) => short(days[i].day), ...more });
}

export function perDay(box, days, words) {
  draw(box, (width) => {
    const y = spread(days), yTicks = ticks(...y, 4), places = decimals(yTicks);
    const yWords = (v) => `${v < 0 ? "−" : ""}$${Math.abs(v).toLocaleString("en-US", { minimumFractionDigits: places, maximumFractionDigits: places })}`;
    const p = daily(width, days, { y, yTicks, yWords, label: `Dollars saved per day, ${days.length} days; a table follows.` }), { box: out, X, Y } = p;
    const wide = Math.min(34, 0.64 * (X(1) - X(0))), inside = clipped(p);
    days.forEach(({ day, saving: s }, i) => {
      const from = Y(Math.max(0, s.value)), to = Y(Math.min(0, s.value)), x = X(i);
      const mark = rect(x - wide / 2, from, wide, Math.max(1, to - from), s.value < 0 ? "cost" : "good", { rx: 2 });
      mark.append(svg("title", {}, `${day}: ${words(s.value)}, between ${words(s.low)} and ${words(s.high)}`));
      inside.append(mark, ...whisker(x, Y(s.low), Y(s.high)));
    });
    out.append(line(X(-0.5), Y(0), X(days.length - 0.5), Y(0), "base"));
    return out;
  });
}

export function rate(box, days) {
  draw(box, (width) => {
    const high = Math.min(1, 1.08 * Math.max(0.05, ...days.map((d) => d.escalation.high)));
    const { box: out, X, Y } = daily(width, days, { y: [0, high], yTicks: ticks(0, high, 4), yWords: shareWords, label: `Share of requests that went to the large model, ${days.length} days; a table follows.` });
    const along = (end) => days.map((d, i) => [X(i), Y(d.escalation[end])]);
    if (days.length > 1) out.append(path([...along("high"), ...along("low").reverse()], "band"), path(along("value"), "curve"));
    else out.append(...whisker(X(0), Y(days[0].escalation.low), Y(days[0].escalation.high)));
    for (const [x, y] of along("value")) out.append(dot(x, y, 3.5, "good"));
    return out;
  });
}

const shares = { xTicks: [0, 0.2, 0.4, 0.6, 0.8, 1], xWords: (v) => String(+v.toFixed(2)), x: [0, 1] };

export function histogram(box, bins, threshold) {
  draw(box, (width) => {
    const most = Math.max(1, ...bins.map((b) => b.accepted + b.escalated)), top = most * 1.08;
    const { box: out, X, Y, top: up, bottom } = plane(width, {
      ...shares, y: [0, top], yTicks: ticks(0, top, 4).filter((v) => Number.isInteger(v)), yName: "drafts", xName: "confidence", height: 236,
      label: `How many drafts had which confidence; ${bins.reduce((n, b) => n + b.accepted, 0)} accepted, ${bins.reduce((n, b) => n + b.escalated, 0)} escalated.`,
    });
    for (const b of bins) {
      const x = X(b.low) + 1, wide = X(b.high) - X(b.low) - 2;
      out.append(rect(x, Y(b.accepted), wide, Y(0) - Y(b.accepted), "good"), rect(x, Y(b.accepted + b.escalated), wide, Y(b.accepted) - Y(b.accepted + b.escalated), "big"));
    }
    if (threshold !== null) out.append(line(X(threshold), up - 8, X(threshold), bottom, "here"));
    return out;
  });
}

export function reliability(box, groups) {
  draw(box, (width) => {
    const low = Math.max(0, Math.floor(10 * Math.min(0.9, ...groups.map((g) => Math.min(g.confidence, g.correct.low) - 0.02))) / 10), marks = ticks(low, 1, 5);
    const { box: out, X, Y } = plane(width, {
      x: [low, 1], xTicks: marks, xWords: shares.xWords, y: [low, 1], yTicks: marks, yWords: shareWords, yName: "right", xName: "confidence", height: 236,
      label: `How often audited drafts were right: ${groups.map((g) => `at ${g.confidence.toFixed(2)} ${(g.correct.value * 100).toFixed(0)} % of ${g.correct.n}`).join("; ")}.`,
    });
    out.append(line(X(low), Y(low), X(1), Y(1), "ideal"));
    if (groups.length > 1) out.append(path(groups.map((g) => [X(g.confidence), Y(g.correct.value)]), "curve"));
    for (const g of groups) out.append(line(X(g.confidence), Y(g.correct.low), X(g.confidence), Y(g.correct.high), "whisker"), dot(X(g.confidence), Y(g.correct.value), 5, "good dot"));
    return out;
  });
}

// Cost against quality: every threshold, what is not known, where it stands, where one looks.
export function curve(box, choices, made, picked) {
  draw(box, (width) => {
    const cost = (c) => 1 - c.share.value, known = choices.filter((c) => c.harm.value !== null);
    const right = (h) => 1 - h, compared = choices.filter((c) => c.unjudged < 0.02);
    const low = Math.min(...known.map((c) => right(c.harm.value)), ...compared.map((c) => right(c.harm.high)), right(made.harm.high)), air = 0.06 * (1 - low) + 0.004;
    const y = [Math.max(0, low - air), Math.min(1, 1 + air / 3)], far = Math.max(1, ...choices.map(cost)) * 1.03;
    const p = plane(width, {
      x: [0, far], xTicks: ticks(0, far, 5), xWords: shareWords, xName: "cost, of the large model alone",
      y, yTicks: ticks(y[0], Math.min(1, y[1]), 4), yWords: shareWords, yName: "requests without a wrong draft", height: 300,
      label: "Cost against quality at every threshold; the slider reads each of them.",
    });
    const { box: out, X, Y, bottom } = p, inside = clipped(p);
    const edge = (end) => choices.map((c) => [X(cost(c)), Y(right(c.harm[end]))]);
    if (choices.length > 1) inside.append(path([...edge("low"), ...edge("high").reverse()], "band"));
    if (known.length > 1) inside.append(path(known.map((c) => [X(cost(c)), Y(right(c.harm.value))]), "curve"));
    const place = (c) => [X(cost(c)), Math.min(bottom, Y(right(c.harm.value ?? c.harm.high)))];
    const [nx, ny] = place(made), [px, py] = place(picked);
    inside.append(line(px, Y(right(picked.harm.low)), px, Y(right(picked.harm.high)), "whisker"));
    out.append(dot(nx, ny, 8, "now"), dot(px, py, 6, "picked"));
    return out;
  });
}

// Confidence on a line from 0 to 1, with the threshold.
export function meter(confidence, threshold) {
  const said = `Confidence ${confidence.toFixed(2)}${threshold === null ? "" : `, threshold ${threshold.toFixed(2)}`}`;
  const out = svg("svg", { viewBox: "0 0 320 26", class: "meter", role: "img", "aria-label": said });
  out.append(rect(0, 8, 320, 10, "track", { rx: 5 }), rect(0, 8, 320 * confidence, 10, threshold === null || confidence >= threshold ? "good" : "cost", { rx: 5 }));
  if (threshold !== null) out.append(line(320 * threshold, 1, 320 * threshold, 25, "here"));
  return out;
}
