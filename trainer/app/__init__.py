"""The page: a video in, its emotion curve beside the playing video.

    __main__.py      flags, the socket, the end
    server.py        what is answered to whom: routes, guards, headers
    connections.py   connections that ask nothing are closed
    uploads.py       a body to a file, no longer than allowed; a name to a title
    jobs.py          the videos that are there: queue, progress, deletion
    children.py      processes that do what may hang or crash, and are killed then
    look.py          one of them: is a file media, and what does it hold
    judge.py         the other: the network, one video at a time
    rooms.py         the private folder that all files lie in

Templates, style and script are in ``trainer/page``: ``app*``.
"""
