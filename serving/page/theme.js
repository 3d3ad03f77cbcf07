// Runs before the page is drawn, so that it never flashes in the other theme; hence not a module.
{
  const theme = localStorage.getItem("plaudit.theme");
  if (theme) document.documentElement.dataset.theme = theme;
}
