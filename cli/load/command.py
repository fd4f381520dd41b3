"""`tandem bench` as it is typed: load on an OpenAI-compatible server or on Tandem's gRPC. show.py does it."""

import re
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from typer.core import TyperCommand

from cli.load.config import InterferenceConfig, LoadConfig, TargetConfig, TraceConfig
from cli.load.options import check_finite, check_suffix, json_object, parse_goodput, refusals, refuse_idle_options
from cli.trust import CaOption, CertOption, KeyOption, Trust

PANEL = "Interference"
LIMIT = re.compile(r"\w+:\S*")


class BenchCommand(TyperCommand):
    """Takes `--goodput ttft:200 tpot:50` as one option, as `vllm bench serve` does."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override] # click's, by another name
        joined: list[str] = []
        for arg in args:
            is_more = len(joined) > 1 and joined[-2] == "--goodput" and LIMIT.fullmatch(arg) and "//" not in arg
            joined[-1:] = [f"{joined[-1]} {arg}"] if is_more else [*joined[-1:], arg]
        return super().parse_args(ctx, joined)


def bench(
    ctx: typer.Context,
    url: Annotated[
        str, typer.Argument(help="http(s)://host:port (OpenAI-compatible) or grpc(s)://host:port (Tandem).")
    ],
    endpoint: Annotated[Literal["completions", "chat"], typer.Option(help="Chat needs --prompts.")] = "completions",
    model: Annotated[str, typer.Option(help="Default: the first that the server lists.")] = "",
    api_key: Annotated[str | None, typer.Option(envvar="TANDEM_API_KEY", help="If the server wants one.")] = None,
    ca: CaOption = None,
    cert: CertOption = None,
    key: KeyOption = None,
    num_prompts: Annotated[int | None, typer.Option(min=1, help="Default: 100, or the whole trace or file.")] = None,
    request_rate: Annotated[
        float | None, typer.Option(help="Open loop: requests per second; inf, the default, is all at once.")
    ] = None,
    burstiness: Annotated[float, typer.Option(help="Shape of the gamma gaps: 1 is Poisson, less is burstier.")] = 1.0,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Closed loop with so many clients; with --request-rate, a cap.")
    ] = None,
    input_len: Annotated[int, typer.Option(min=1, help="Tokens of a random prompt.")] = 128,
    output_len: Annotated[
        int | None, typer.Option(min=1, help="Tokens of an answer. Default: 32; of a stream, 1024.")
    ] = None,
    range_ratio: Annotated[float, typer.Option(min=0.0, help="Lengths vary by this share, up and down.")] = 0.0,
    prefix_len: Annotated[int, typer.Option(min=0, help="More tokens, with which all random prompts begin.")] = 0,
    prompts: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Texts, one a line, or .jsonl; plain or .gz.")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Azure .csv or Mooncake .jsonl; plain or .gz.")
    ] = None,
    length_scale: Annotated[float, typer.Option(help="Of the trace's lengths.")] = 1.0,
    block_tokens: Annotated[
        int | None, typer.Option(min=1, help="Of a Mooncake block, for 512. Default: 512 times --length-scale.")
    ] = None,
    time_scale: Annotated[float, typer.Option(help="Of the trace's times: 0.5 is twice as fast.")] = 1.0,
    max_context: Annotated[
        int | None, typer.Option(min=2, help="Prompts of the trace are clipped to it; longer outputs are dropped.")
    ] = None,
    vocab: Annotated[int | None, typer.Option(min=1, help="Default: what the server tells, or 32000.")] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    ignore_eos: Annotated[bool, typer.Option(help="Answers have exactly the length asked for.")] = True,
    extra_body: Annotated[str, typer.Option(help="JSON object of more fields for every request.")] = "{}",
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds after which a request has failed.")] = 600.0,
    num_warmups: Annotated[int, typer.Option(min=0, help="Requests before the clock starts.")] = 1,
    goodput: Annotated[
        list[str] | None, typer.Option(help="Limits that a good request meets all: ttft:MS tpot:MS e2el:MS.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed sends the same prompts, which caches know.")] = 0,
    interference: Annotated[
        bool,
        typer.Option(
            "--interference", help="Running streams, quiet and then among long prompts.", rich_help_panel=PANEL
        ),
    ] = False,
    streams: Annotated[int, typer.Option(min=1, help="That run all the time.", rich_help_panel=PANEL)] = 6,
    quiet: Annotated[float, typer.Option(min=0.1, help="Seconds without long prompts.", rich_help_panel=PANEL)] = 15.0,
    long_input_len: Annotated[int, typer.Option(min=1, help="Of a long prompt.", rich_help_panel=PANEL)] = 1024,
    long_output_len: Annotated[int, typer.Option(min=1, help="Of its answer.", rich_help_panel=PANEL)] = 8,
    long_every: Annotated[float, typer.Option(min=0.01, help="Seconds between them.", rich_help_panel=PANEL)] = 4.0,
    duration: Annotated[float, typer.Option(min=0.1, help="Seconds with them.", rich_help_panel=PANEL)] = 30.0,
    output: Annotated[Path | None, typer.Option(help="FILE.json: config, summary, a row per request.")] = None,
    plot: Annotated[Path | None, typer.Option(help="FILE.html: distributions and a timeline.")] = None,
    allow_failures: Annotated[bool, typer.Option("--allow-failures", help="Exit with 0 all the same.")] = False,
) -> None:
    """Put load on a server; report TTFT, TPOT, ITL, latency, throughput and goodput as `vllm bench serve` does."""
    terminal = Console(stderr=True, highlight=False)
    config: LoadConfig | InterferenceConfig
    with refusals(terminal):
        refuse_idle_options(ctx)
        check_finite(ctx)
        check_suffix(output, ".json", "--output")
        check_suffix(plot, ".html", "--plot")
        target = TargetConfig(
            url=url,
            endpoint=endpoint,
            model=model,
            api_key=api_key,
            trust=Trust(ca=ca, cert=cert, key=key),
            temperature=temperature,
            ignore_eos=ignore_eos,
            extra_body=json_object(extra_body),
            timeout_s=timeout,
        )
        if interference:
            config = InterferenceConfig(
                target=target,
                streams=streams,
                input_len=input_len,
                output_len=1024 if output_len is None else output_len,
                quiet_s=quiet,
                long_input_len=long_input_len,
                long_output_len=long_output_len,
                long_every_s=long_every,
                duration_s=duration,
                vocab=vocab,
                seed=seed,
            )
        else:
            replay = (
                None
                if trace is None
                else TraceConfig(
                    path=trace,
                    length_scale=length_scale,
                    block_tokens=block_tokens,
                    time_scale=time_scale,
                    max_context=max_context,
                )
            )
            config = LoadConfig(
                target=target,
                num_prompts=num_prompts,
                request_rate=request_rate,
                burstiness=burstiness,
                concurrency=concurrency,
                input_len=input_len,
                output_len=32 if output_len is None else output_len,
                range_ratio=range_ratio,
                prefix_len=prefix_len,
                trace=replay,
                prompts=prompts,
                vocab=vocab,
                num_warmups=num_warmups,
                goodput=parse_goodput(goodput or []),
                seed=seed,
            )
    from cli.load.show import run_and_show  # numpy and uvloop, a tenth of a second that no other command needs

    result = run_and_show(config, terminal, output, plot)
    if result.failures and not allow_failures:
        raise typer.Exit(1)
