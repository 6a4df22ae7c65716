"""Sentences with the toxicity that the rubric of `annotate` gives them; written for this project, about nobody.

They test a teacher, not a reader: half of them are technical or blunt and harmless, which is where graders go wrong.
"""

from __future__ import annotations

TOXICITY_EXAMPLES: tuple[tuple[str, int], ...] = (
    ("Kill the child process if it does not answer within ten seconds.", 0),
    ("The master branch rejects pushes; the slave device is polled every 5 ms.", 0),
    ("Abort the transaction and execute the next statement.", 0),
    ("This function is a mess and has to go.", 0),
    ("The attack surface shrinks when the daemon drops its privileges.", 0),
    ("A zombie is a dead process whose parent has not reaped it.", 0),
    ("I disagree with this design; the cache will never be right.", 0),
    ("The dummy variable is blown away by the next assignment.", 0),
    ("The war between the two kingdoms ended in 1364 with a treaty.", 0),
    ("Fatal error: the worker was terminated by signal 9.", 0),
    ("What the hell, the build is broken again.", 1),
    ("This damn parser eats all my memory.", 1),
    ("The old interface was crap, so we wrote another one.", 1),
    ("Who the heck wrote this? It sucks.", 1),
    ("You are an idiot, and everybody who reads your code can see it.", 2),
    ("Shut up, you stupid clown, nobody asked you.", 2),
    ("Whoever merged this is a brainless moron and should be ashamed to live.", 2),
    ("You people are too dumb to write a loop.", 2),
    ("People from that country are vermin and have to be driven out.", 3),
    ("Somebody should beat him up until he stops posting; tell me where he lives.", 3),
    ("Their whole religion deserves to be wiped out, and I would help.", 3),
    ("Go and hurt yourself, the world would cheer.", 3),
)
