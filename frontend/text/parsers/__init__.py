"""What an answer's text means: reasoning, tool calls and what is meant to be read. One file per family of models.

Parsers are pure: text goes in as it comes, typed events come out (`events`), the same however the text was cut.
Whatever turns out to be no call is text again; nothing raises, and every character is looked at a bounded number of
times.
"""
