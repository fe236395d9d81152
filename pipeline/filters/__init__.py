"""Is it a music video, and worth keeping? One question a file, each with a score and a verdict.

    text.py        its title, description, category and length          before anything is fetched
    patterns.py    the regular expressions of its rules: whole words in every script, none that hangs
    sound.py       silence, clipping, one held tone                     the undenoised sound
    speech.py      talk, singing, music                                 the undenoised sound
    motion.py      stills, slides, black                                a small picture, five times a second
    duplicates.py  the same song or video again                         all clips of the set, in the plan
    thresholds.py  what a clip must reach to be kept
    judge.py       all verdicts on one clip

A score is a column of the index (``schema.SCORES``). A verdict is a function of scores and thresholds alone, so that
other thresholds can be tried without decoding anything again: ``python -m pipeline.filters DIR --speech 0.4``.
"""
