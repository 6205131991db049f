// Draws the page's figures, keeps their controls in step, and sorts its tables.

const dark = matchMedia("(prefers-color-scheme: dark)").matches;
const views = [];

// Sets a parameter of a view, if it has it.
function setParameter(view, name, value) {
  try {
    if (JSON.stringify(view.signal(name)) !== JSON.stringify(value)) view.signal(name, value).runAsync();
  } catch { /* it has not */ }
}

async function draw(element) {
  const { renderer } = element.dataset;
  let figure = element.nextElementSibling.textContent;
  if (element.clientWidth < 480) figure = figure.replaceAll('"labelLimit":320', '"labelLimit":110');
  if (renderer === "canvas") figure = figure.replaceAll("currentColor", getComputedStyle(element).color);
  const specification = JSON.parse(figure);
  const { view } = await vegaEmbed(element, specification, {
    renderer,
    actions: { export: true, source: false, compiled: false, editor: false },
    downloadFileName: element.dataset.name,
    tooltip: { theme: dark ? "dark" : "light" },
  });
  view.group = element.dataset.group;
  const rows = [specification, ...specification.layer].flatMap(({ data }) => data?.values ?? []);
  view.variants = new Set(rows.map(({ variant }) => variant));
  for (const name of ["layer", "measurement", "snapshot"]) {
    try {
      view.addSignalListener(name, (_, value) => {
        for (const other of views) if (other.group === view.group) setParameter(other, name, value);
      });
    } catch { /* this view has no such slider */ }
  }
  views.push(view);
}

// The legend: a press emphasises a variant in all figures, a second press takes that back.
const legend = document.querySelector(".legend");
function emphasise() {
  const pressed = [...legend.querySelectorAll("[aria-pressed=true]")].map((button) => button.dataset.variant);
  legend.classList.toggle("chosen", pressed.length > 0);
  for (const view of views) setParameter(view, "shown", pressed.filter((variant) => view.variants.has(variant)));
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

// Tables: a click on a heading sorts by it, largest number or first name first; another click, the other way round.
// Cells without a number come last.
function sortKey(row, column) {
  const text = row.cells[column]?.textContent.trim() ?? "";
  const number = parseFloat(text.replace(/[−–]/g, "-").replace(/,/g, ""));
  return { text, number: /^[-+−]?[\d.]/.test(text) && !/^\d+ of /.test(text) ? number : NaN };
}
function sortTable(heading) {
  const body = heading.closest("table").tBodies[0];
  const rows = [...body.rows].map((row) => ({ row, ...sortKey(row, heading.cellIndex) }));
  const numeric = rows.some(({ number }) => !isNaN(number));
  const before = heading.getAttribute("aria-sort");
  const descending = before === null ? numeric : before === "ascending";
  for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
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
