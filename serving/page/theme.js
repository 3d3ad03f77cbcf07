// Runs before the page is drawn, so that it never flashes in the other theme. No module for that.
{
  const theme = localStorage.getItem("plaudit.theme");
  if (theme) document.documentElement.dataset.theme = theme;
}
