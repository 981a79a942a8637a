// What the theme leaves to do: what scrolls sideways can be scrolled by keys, and parts of a page have names.
document.addEventListener("DOMContentLoaded", () => {
  const mark = () => {
    for (const part of document.querySelectorAll("article pre, article .table-wrapper")) {
      if (part.scrollWidth > part.clientWidth) part.tabIndex = 0;
      else part.removeAttribute("tabindex");
    }
  };
  mark();
  window.addEventListener("resize", mark);
  // Parameters that are set one on each line are definitions without terms, and some columns have no heading: neither is
  // what a screen reader should announce.
  const replace = (element, tag) => {
    const other = document.createElement(tag);
    other.className = element.className;
    other.append(...element.childNodes);
    element.replaceWith(other);
  };
  for (const item of document.querySelectorAll("dt dl, dt dl > dd")) replace(item, "span");
  for (const head of document.querySelectorAll("article th")) if (!head.textContent.trim()) replace(head, "td");
  document.querySelector("aside.sidebar-drawer")?.setAttribute("aria-label", "Pages");
  document.querySelector("aside.toc-drawer")?.setAttribute("aria-label", "On this page");
});
