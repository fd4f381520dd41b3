"""The chaos suite behind `tandem chaos`: load whose every answer is known beforehand, on a server that is being hurt.

asks.py      what is asked, and how its client behaves               pure
answers.py   what was heard, and how it differs from what is right   pure
faults.py    what is hurt when, from a seed                          pure
hear.py      bytes and messages → what was heard                     pure
talk.py      one request over REST or gRPC
load.py      clients that ask until told to stop, and judge
victims.py   a server's processes and what they take, by /proc
links.py     proxies on the KV links of a server of ours
own.py       a server of ours
strikes.py   carries out the faults, and sees workers come back
checks.py    what must hold afterwards
report.py    terminal and JSON                                       pure
run.py       the story
show.py      one run: its progress, its report, its file
command.py   what may be typed; imports the rest when it runs
"""
