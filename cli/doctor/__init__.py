"""`tandem doctor`: what of this machine, this folder and this deployment is in the way, and what to change."""
