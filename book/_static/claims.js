// The page of all claims, filtered by verdict, page and words. The tables stand in the page: without this script, and on
// paper, they are all shown. Nothing is fetched.
addEventListener("DOMContentLoaded", () => {
  const place = document.querySelector(".claims-filter");
  if (!place) return;
  const sections = [...place.closest("section").querySelectorAll("section")].map(section => ({
    section,
    title: section.querySelector("h2").firstChild.textContent.trim(),
    rows: [...section.querySelectorAll("tbody tr")].map(row => ({
      row, verdict: row.cells[0].textContent.trim(), words: [...row.cells].map(cell => cell.textContent).join(" ").toLowerCase(),
    })),
  }));
  const all = sections.flatMap(({ rows }) => rows);

  const field = (label, input) => {
    const around = document.createElement("label");
    around.append(label, " ", input);
    place.append(around);
    return input;
  };
  const choice = (label, options) => {
    const select = document.createElement("select");
    for (const [value, text] of options) select.append(new Option(text, value));
    return field(label, select);
  };
  const count = verdict => all.filter(row => row.verdict === verdict).length;
  const verdicts = ["fails", "open", "holds"].map(verdict => [verdict, `${verdict} (${count(verdict)})`]);
  const verdict = choice("Verdict", [["", "every verdict"], ...verdicts]);
  const page = choice("Page", [["", "every page"], ...sections.map(({ title }, number) => [String(number), title])]);
  const words = field("Words", Object.assign(document.createElement("input"), { type: "search" }));
  const told = document.createElement("output"); // spoken when it changes
  place.append(told);

  const show = () => {
    const asked = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    sections.forEach(({ section, rows }, number) => {
      let here = 0;
      for (const { row, verdict: its, words: text } of rows) {
        const fits = (!verdict.value || its === verdict.value) && asked.every(word => text.includes(word));
        row.hidden = !fits;
        here += fits;
      }
      section.hidden = !here || (page.value !== "" && Number(page.value) !== number);
      if (!section.hidden) shown += here;
    });
    told.textContent = `${shown} of ${all.length} claims`;
  };
  for (const input of [verdict, page, words]) input.addEventListener("input", show);
  show();
  place.setAttribute("role", "search");
  place.setAttribute("aria-label", "Filter the claims");
  place.hidden = false;
});
