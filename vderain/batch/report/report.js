// What the page of report.py does: wipes between before and after, sorts, filters, opens details, changes its colours.
"use strict";

const find = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// Before and after: the value of the slider is the share of the picture that is cut to "before".

function wipe(slider) {
  slider.closest(".stage").style.setProperty("--at", `${slider.value}%`);
  slider.setAttribute("aria-valuetext", `${Math.round(slider.value)} % before, ${100 - Math.round(slider.value)} % after`);
}

function show(moment) {
  const stage = find(".stage", moment.closest(".compare"));
  find(".before", stage).src = moment.dataset.before;
  find(".after", stage).src = find("img", moment.parentElement).src;
}

function prepare(compare) {
  if (!find(".stage", compare)) compare.prepend(find("#stage").content.cloneNode(true));
  const after = find(".after", compare);
  const shape = () => {
    const { naturalWidth: width, naturalHeight: height } = after;
    if (width) after.parentElement.style.setProperty("--ratio", width / height);
  };
  after.addEventListener("load", shape);
  show(find("input:checked", compare));
  shape();
  wipe(find(".wipe", compare));
}

document.addEventListener("input", ({ target }) => {
  if (target.matches(".wipe")) wipe(target);
  if (target.dataset.before) show(target);
});

document.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -4, ArrowDown: -4, ArrowRight: 4, ArrowUp: 4 }[event.key];
  if (!step || !event.target.matches(".wipe") || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault(); // half a percent a key would be slow
  event.target.value = Number(event.target.value) + (event.shiftKey ? step / 4 : step);
  event.target.dispatchEvent(new Event("input", { bubbles: true }));
});

document.addEventListener("error", ({ target }) => {
  if (target.matches?.("img")) target.classList.add("gone"); // the picture was deleted
}, true);

// Files: each is a table body of its own, with its details in a template.

const table = find("#files");
const files = all("tbody", table);
const heads = all("thead th", table);
let ordered = files;

function toggle(file) {
  const name = find(".name", file);
  const open = find(".more", file);
  if (open) open.remove();
  else {
    file.append(find("template", file).content.cloneNode(true));
    name.setAttribute("aria-controls", find(".more", file).id);
    all(".compare", file).forEach(prepare);
  }
  if (open) name.removeAttribute("aria-controls");
  name.setAttribute("aria-expanded", String(!open));
}

table.addEventListener("click", ({ target }) => {
  const row = target.closest("tbody > tr:not(.more)");
  const selecting = !target.closest("button") && String(getSelection()).trim(); // to copy an error, say
  if (row && !selecting) toggle(row.parentElement);
});

table.addEventListener("keydown", (event) => {
  if (!event.target.matches(".name") || event.altKey || event.ctrlKey || event.metaKey) return;
  const names = all("tbody:not([hidden]) .name", table);
  const here = names.indexOf(event.target);
  const there = { ArrowDown: here + 1, ArrowUp: here - 1, Home: 0, End: names.length - 1 }[event.key];
  if (there === undefined) return;
  event.preventDefault();
  names[there]?.focus();
});

// Sorting.

const STATES = ["failed", "running", "waiting", "skipped", "done"]; // what needs a look comes first
const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
const order = find("#order");

function sortKey(file, column) {
  const cell = find("tr", file).cells[column];
  const kind = heads[column].dataset.sort;
  if (kind === "number") return Number(cell.dataset.v);
  if (kind === "state") return STATES.indexOf(file.dataset.is.split(" ")[0]);
  return (find("button, time", cell) ?? cell).textContent;
}

function arrange(sorted) {
  ordered = sorted;
  for (const file of files) file.hidden = true; // laid out once, by the filter, and not at every move
  table.append(...ordered);
  filter();
}

function sort(column, descending) {
  const keyed = files.map((file) => [sortKey(file, column), file]);
  const compare = heads[column].dataset.sort === "text" ? collator.compare : (a, b) => a - b;
  keyed.sort(([a], [b]) => (descending ? compare(b, a) : compare(a, b)));
  arrange(keyed.map(([, file]) => file));
  for (const head of heads) if (head.dataset.sort) head.setAttribute("aria-sort", "none");
  heads[column].setAttribute("aria-sort", descending ? "descending" : "ascending");
  order.value = `${column} ${descending}`;
}

heads.forEach((head, column) => {
  if (!head.dataset.sort) return;
  const label = head.textContent.trim();
  const button = document.createElement("button");
  const number = head.dataset.sort === "number";
  button.type = "button";
  button.textContent = label;
  button.addEventListener("click", () => {
    const now = head.getAttribute("aria-sort");
    sort(column, now === "none" ? number : now === "ascending"); // of numbers the largest first
  });
  head.replaceChildren(button);
  head.setAttribute("aria-sort", "none");
  for (const descending of number ? [true, false] : [false, true]) {
    const words = number ? ["least", "most"] : ["", "reversed"];
    order.add(new Option(`${label} ${words[Number(descending)]}`.trim(), `${column} ${descending}`));
  }
});
order.add(new Option("As listed", ""), 0);
order.value = "";
order.addEventListener("input", () => {
  const [column, descending] = order.value.split(" ");
  if (column) return sort(Number(column), descending === "true");
  for (const head of heads) if (head.dataset.sort) head.setAttribute("aria-sort", "none");
  arrange(files);
});

// Filters.

const query = find("#find");
const shown = find("#shown");
const texts = new Map();
const next = find("#next");
const page = Number(table.dataset.page);
let limit = page;

function textOf(file) {
  if (!texts.has(file)) {
    const details = all(".said li, .said p", find("template", file).content);
    const seen = all("button, p, .state", find("tr", file));
    texts.set(file, [...seen, ...details].map((part) => part.textContent).join("\n").toLowerCase());
  }
  return texts.get(file);
}

function filter(event) {
  const words = query.value.toLowerCase().split(/\s+/).filter(Boolean);
  const state = find("input[name=state]:checked").value;
  const group = find("input[name=group]:checked")?.value ?? "";
  if (event) limit = page;
  let count = 0;
  for (const file of ordered) {
    const fits = (!state || file.dataset.is.split(" ").includes(state)) && (!group || file.dataset.group === group) &&
      words.every((word) => textOf(file).includes(word));
    count += fits;
    file.hidden = !fits || count > limit;
  }
  const total = `${files.length.toLocaleString("en")} file${files.length === 1 ? "" : "s"}`;
  shown.textContent = count === files.length ? total : `${count.toLocaleString("en")} of ${total}`;
  find("#none").hidden = count > 0;
  next.hidden = count <= limit;
  next.textContent = `Show ${Math.min(page, count - limit).toLocaleString("en")} more`;
}

next.addEventListener("click", () => {
  limit += page;
  filter();
});

function choose(state) {
  query.value = "";
  limit = page;
  for (const all of document.querySelectorAll("input[name=group][value='']")) all.checked = true;
  find(`input[name=state][value='${state}']`).checked = true;
  filter();
}

query.addEventListener("input", filter);
for (const chip of all("input[name=state], input[name=group]")) chip.addEventListener("input", filter);
find("#clear").addEventListener("click", () => { choose(""); query.focus(); });
find("#show-failed")?.addEventListener("click", () => {
  choose("failed");
  find("#toolbar").scrollIntoView();
  find("input[name=state]:checked").focus();
});
document.addEventListener("keydown", (event) => {
  const writing = event.target.matches("input[type=search], select");
  if (event.key === "/" && !writing && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    query.focus();
  }
});

// Light and dark: as the system is, until told otherwise.

const theme = find("#theme");
const root = document.documentElement;
const dark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
const label = () => {
  theme.textContent = isDark() ? "Light" : "Dark";
  theme.setAttribute("aria-label", `${theme.textContent} colours`);
};

try { // where the browser lets a page from disk keep something
  root.dataset.theme = localStorage.getItem("vderain-theme") ?? "";
} catch { /* then it is forgotten */ }
theme.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  try {
    localStorage.setItem("vderain-theme", root.dataset.theme);
  } catch { /* as above */ }
  label();
});
dark.addEventListener("change", label);
label();

// The heads of the columns stay below the toolbar, however many lines it has.

new ResizeObserver(([{ target }]) => {
  const sticks = getComputedStyle(target).position === "sticky";
  root.style.setProperty("--toolbar", `${sticks ? target.offsetHeight : 0}px`);
}).observe(find("#toolbar"));

for (const control of [theme, find("#toolbar"), find("#show-failed")]) if (control) control.hidden = false;
all(".compare").forEach(prepare);
filter();
