"""The pages: the first paint is made here and works without JavaScript; a script keeps it up to date.

site.py       the server: pages and API
pages.py      paths, and what each page reads: the same replies that the API gives
charts.py     numbers become geometry; the templates draw it as SVG
wording.py    how numbers, times and states are said
templates/    Jinja2, autoescape on: a name is text, whatever it holds
static/       style, two scripts, and `vendor/` with the versions and hashes of what others wrote

A page loads nothing from elsewhere, and has no script or style inline: the Content-Security-Policy
forbids both.
"""
