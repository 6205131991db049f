// Draws the page's figures, keeps their controls in step, and sorts its tables.

const dark = matchMedia("(prefers-color-scheme: dark)").matches;
const views = [];

// Sets a parameter in every view that has it; in those of one group, if it is given.
function setParameter(name, value, group) {
  for (const view of views) {
    if (group !== undefined && view.group !== group) continue;
    try {
      if (JSON.stringify(view.signal(name)) !== JSON.stringify(value)) view.signal(name, value).runAsync();
    } catch { /* this view has no such parameter */ }
  }
}

async function draw(element) {
  const { renderer } = element.dataset;
  let figure = element.nextElementSibling.textContent;
  if (renderer === "canvas") figure = figure.replaceAll("currentColor", getComputedStyle(element).color);
  const { view } = await vegaEmbed(element, JSON.parse(figure), {
    renderer,
    actions: { export: true, source: false, compiled: false, editor: false },
    downloadFileName: element.dataset.name,
    tooltip: { theme: dark ? "dark" : "light" },
  });
  view.group = element.dataset.group;
  for (const name of ["layer", "measurement", "snapshot"]) {
    try {
      view.addSignalListener(name, (_, value) => setParameter(name, value, view.group));
    } catch { /* this view has no such slider */ }
  }
  views.push(view);
}

// The legend: a press emphasises a variant in all figures, a second press takes that back.
const legend = document.querySelector(".legend");
function emphasise() {
  const pressed = [...legend.querySelectorAll("[aria-pressed=true]")];
  legend.classList.toggle("chosen", pressed.length > 0);
  setParameter("shown", pressed.map((button) => button.dataset.variant));
}
legend?.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.variant === undefined) {
    for (const other of legend.querySelectorAll("[aria-pressed]")) other.setAttribute("aria-pressed", "false");
  } else {
    button.setAttribute("aria-pressed", button.getAttribute("aria-pressed") !== "true");
  }
  emphasise();
});

// Tables: a click on a heading sorts by it, another one the other way round. Cells without a number come last.
function sortKey(row, column) {
  const text = row.cells[column]?.textContent.trim() ?? "";
  const number = parseFloat(text.replace(/[−–]/g, "-").replace(/,/g, ""));
  return { text, number: /^[-+−]?[\d.]/.test(text) ? number : NaN };
}
function sortTable(heading) {
  const body = heading.closest("table").tBodies[0];
  const descending = heading.getAttribute("aria-sort") === "ascending";
  for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const rows = [...body.rows].map((row) => ({ row, ...sortKey(row, heading.cellIndex) }));
  const numeric = rows.some(({ number }) => !isNaN(number));
  rows.sort((a, b) => {
    if (!numeric) return (descending ? -1 : 1) * a.text.localeCompare(b.text);
    if (isNaN(a.number) || isNaN(b.number)) return isNaN(a.number) - isNaN(b.number);
    return (descending ? -1 : 1) * (a.number - b.number);
  });
  body.append(...rows.map(({ row }) => row));
}
for (const heading of document.querySelectorAll("table thead th")) {
  const button = document.createElement("button");
  button.append(...heading.childNodes);
  heading.append(button);
  button.addEventListener("click", () => sortTable(heading));
}

// One after the other, so that the page can be read and scrolled meanwhile.
(async () => {
  for (const element of document.querySelectorAll(".plot")) {
    try {
      await draw(element);
    } catch (error) {
      element.textContent = `This figure can't be drawn: ${error.message}`;
    }
    await new Promise((resolve) => setTimeout(resolve));
  }
  if (legend) emphasise(); // what was pressed meanwhile
  document.documentElement.dataset.drawn = "true";
})();
