// What scrolls sideways can be reached and moved with the keyboard: long formulas get a tab stop where they overflow.
addEventListener("load", async () => {
  await window.MathJax?.startup?.promise;
  for (const part of document.querySelectorAll('mjx-container[display="true"]')) {
    if (part.scrollWidth > part.clientWidth) part.tabIndex = 0;
  }
});
