"""The pages: ``report.html`` of a run, which runs no script, ``player.html`` of a video, ``map.html`` of a set.

None fetches anything.

Beside them, those of ``trainer.app``, which a server sends.

    card.py              the card of an exported model, card.md.j2
    charts.py            lines and bars as plain SVG, in the colours of light and dark
    curves.py            what ``log.jsonl`` tells of training, thinned
    sections.py          the scores as rows of tables
    html.py              templates to text
    base.html.j2, evaluation.html.j2, training.html.j2, report.css
    player.html.j2, player.css, player.js
    app-base.html.j2, app.html.j2, app-job.html.j2, app-line.html.j2, app.css, app.js

    mapping.py           the map of an embedded set; map.html.j2, map.css, map.js

``trainer.report`` puts the first together from the files of a run, ``trainer.player`` the second from a curve,
``trainer.embed`` the third.
"""
