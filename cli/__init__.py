"""The `tandem` command: starts the processes of one machine, talks to them and shows what they report."""
