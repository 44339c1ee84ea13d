// Sorts a table by the column whose heading is clicked, again to turn round. The page reads as well without it.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const sort = () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const scale = new Map([["k", 1e3], ["M", 1e6], ["G", 1e9], ["T", 1e12], ["P", 1e15]]);
      const value = (row) => {
        const text = row.cells[column].textContent.replace(/[\u202f\u2007]/g, "").replace("\u2212", "-").trim();
        const number = parseFloat(text.replace(/^[+<]\s*/, ""));
        const unit = scale.get((text.match(/^[-+.\d]+([kMGTP])\b/) || [])[1]) || 1;
        return Number.isNaN(number) ? text : number * unit;
      };
      const order = (a, b) => {
        const numbers = typeof a === "number" && typeof b === "number";
        return numbers ? a - b : String(a).localeCompare(String(b));
      };
      const rows = [...table.tBodies[0].rows].map((row) => [value(row), row]);
      rows.sort(([a], [b]) => (down ? -1 : 1) * order(a, b));
      table.tBodies[0].append(...rows.map(([, row]) => row));
    };
    heading.tabIndex = 0;
    heading.addEventListener("click", sort);
    heading.addEventListener("keydown", (event) => event.key === "Enter" && sort());
  });
}
