"""``report.html``: a study on one page that needs no network; and the list of all studies."""
