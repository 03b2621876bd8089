// Elements, words for figures, and requests to the service. Data becomes text, never markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, act] of Object.entries(value)) node.addEventListener(event, act);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}
export const el = (tag, props, ...children) => fill(document.createElement(tag), props, children);
export const svg = (tag, props, ...children) => fill(document.createElementNS(SVG, tag), props, children);
export const $ = (id) => document.getElementById(id);

export const num = (value) => (value === null || value === undefined ? null : Number(value));

// Three significant digits, without powers of ten, as in the report of the command line.
export function dollars(amount) {
  if (amount === null || amount === undefined) return "unknown";
  let value = Number(amount);
  if (Math.abs(value) < 1e-12) value = 0;
  const power = value ? Math.floor(Math.log10(Math.abs(value))) : 0;
  const places = Math.min(14, Math.max(2, value ? 2 - power : 2));
  return (value < 0 ? "−$" : "$") + Math.abs(value).toLocaleString("en-US", { minimumFractionDigits: places, maximumFractionDigits: places });
}
export const percent = (share, digits = 1) => (share === null || share === undefined ? "unknown" : `${(share * 100).toFixed(digits)} %`.replace("-", "−"));
export const count = (n) => Number(n).toLocaleString("en-US");
export const counted = (n, what) => `${count(n)} ${what}${n === 1 ? "" : "s"}`;
export const seconds = (s) => (s >= 100 ? `${Math.round(s)} s` : s >= 1 ? `${s.toFixed(1)} s` : `${Math.round(s * 1000)} ms`);
export const clock = (at) => new Date(at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

// Ends at the login where the session has ended; other errors are for whoever asked.
export async function refused(response) {
  if (response.status === 401) location.assign("/login");
  const said = await response.json().catch(() => null);
  return Object.assign(new Error(said?.error ?? `the service answered ${response.status}.`), { code: said?.code });
}
export async function get(path) {
  const response = await fetch(path, { headers: { Accept: "application/json" } });
  if (!response.ok) throw await refused(response);
  return response.json();
}

export function empty(title, text, example) {
  return el("div", { class: "empty" }, el("p", {}, title), el("p", { class: "soft" }, text), example ? el("pre", { tabindex: 0, "aria-label": "Example" }, example) : null);
}
export const fact = (name, value, note) => el("div", {}, el("dt", {}, name), el("dd", {}, value, note ? el("small", {}, note) : null));
