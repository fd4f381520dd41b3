"""The load generator behind `tandem bench`: what to send and when, two clients, what they saw, and how it is told.

config.py       what a run is asked to be
arrivals.py     when requests are due                       pure
prompts.py      what they ask                               pure
traces.py       recorded lengths, times and shared prefixes pure but for reading the file
workload.py     config → jobs, and what had to be changed to fit
sse.py          bytes with arrival times → a reply          pure
openai_client.py, grpc_client.py                            all the I/O
run.py          sends jobs open loop or closed loop; `run_load(config)` for other programs
interference.py running streams while long prompts arrive
measure.py      the metrics of `vllm bench serve`           pure
overview.py     a result in words                           pure
report.py       terminal and JSON                           pure
plot.py, figures.py, svg.py                                 one HTML page; pure
show.py         one run: its progress, its report, its files
options.py, command.py                                      what may be typed, and the command; no numpy before a run
"""
