"use strict";
/* Sorts the table by any column; without this script it stands in the order in which the page was written. */
for (const head of document.querySelectorAll("table.sortable th[data-sort]")) {
  const table = head.closest("table"), column = head.cellIndex;
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  head.append(button);
  const value = row => {
    const cell = row.cells[column], number = cell.dataset.value;
    return head.dataset.sort === "number" ? (number === undefined ? Infinity : Number(number)) : cell.textContent.trim();
  };
  button.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of table.querySelectorAll("th[data-sort]")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const order = (a, b) => head.dataset.sort === "number" ? (a === b ? 0 : a - b) : a.localeCompare(b);
    const rows = [...table.tBodies[0].rows].sort((a, b) => (down ? -1 : 1) * order(value(a), value(b)));
    table.tBodies[0].append(...rows);
  });
}
