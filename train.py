"""Train a model from raw text: python train.py [configs/NAME.py] [--section.field VALUE ...]"""

import dataclasses
import sys
from pathlib import Path

from jaxgpt.training.config import TrainConfig, load_config


def main() -> None:
    config = load_config(sys.argv[1:], default=str(Path(__file__).parent / "configs" / "quickstart.py"))
    try:
        train(config)
    except (ValueError, ArithmeticError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")


def train(config: TrainConfig) -> None:
    import jax  # after the command line: --help and mistakes answer at once

    from jaxgpt import params
    from jaxgpt.loading import export
    from jaxgpt.sharding import make_mesh
    from jaxgpt.training import directory, init_from, objectives, tuning
    from jaxgpt.training.checkpoints import NOT_EVALUATED, Checkpoints
    from jaxgpt.training.loop import blocks, evaluator, restore_or_init
    from jaxgpt.training.optimizer import make_optimizer
    from jaxgpt.training.report import Report
    from jaxgpt.training.setup import first_alone, join_processes, keep_compiled_programs, keep_memory
    from jaxgpt.training.step import compile_train
    from jaxgpt.training.stop import sigterm

    # Mistakes of the config, the run directory and the data are reported here, before any long work.
    keep_memory()
    join_processes()
    keep_compiled_programs()
    mesh = make_mesh(config.mesh)
    config = init_from.adopt(config)
    objective = objectives.find(config.objective)
    objective.check(config)

    # Text -> tokens, memory-mapped -> batches.
    with first_alone():
        run = directory.claim(config)
        task = objective.open(config, run / "data")
    config = directory.settle(config, task.tokenizer.vocab_size, task.labels)
    task.check(config)
    loop, model = config.train, config.model

    # The model, what of it is trained, the update, and the compiled programs of them.
    declarations, tuned = objective.declare(model), tuning.find(config)
    trained = tuned.trained(declarations)
    optimizer = make_optimizer(config.optimizer, loop.steps, params.decay_mask(trained))
    update = compile_train(model, objective, optimizer, mesh, loop.accumulation, tuned)
    evaluate = evaluator(config, objective, task, mesh)

    with jax.set_mesh(mesh), sigterm() as asked, Checkpoints(run / directory.CHECKPOINTS, loop.keep) as checkpoints:
        state = restore_or_init(config, checkpoints, declarations, optimizer, mesh, task.identity, tuned)
        directory.write(run, config, task.tokenizer, init_from.settings(config, task.labels))
        first = int(state.step)
        with Report(run, config, first, task.flops_per_token(model)) as report:
            report.say(f"{tuned.count(declarations)} on {mesh.size} {jax.devices()[0].device_kind}")
            if first == 0:
                report.evaluated(0, evaluate(tuned.model(state)))
                if task.shows_first:
                    report.say(task.show(tuned.model(state), model, 0))
            for step, end, block in blocks(config, task.train, first, mesh):
                state, metrics = update(state, block, end - step)
                tokens = task.train.tokens(step, end)
                report.dispatched(step, end, metrics, tokens)  # waits for the dispatch before: the device never waits

                rank, last, stopping = NOT_EVALUATED, end == loop.steps, asked()
                if last or end % loop.eval_every == 0:
                    with report.pause():
                        whole = tuned.model(state)
                        row = evaluate(whole)
                        rank = task.rank(row)  # checkpoints compare by the same batches
                        row = evaluate(whole, last=True) if last else row
                    report.evaluated(end, row)
                    task.draw(run)
                if last or stopping or end % (loop.save_every or loop.eval_every) == 0:
                    with report.pause():  # having seen every step so far: one that went wrong is never saved
                        checkpoints.save(state, task.identity, dataclasses.asdict(config), rank)
                if last or (loop.sample_every and end % loop.sample_every == 0):
                    with report.pause():
                        report.say(task.show(tuned.model(state), model, end))
                if stopping and not last:
                    checkpoints.wait()  # on disk before it is said
                    report.say(f"SIGTERM: saved step {end}; the same command goes on from there")
                    break
            report.plot()
        checkpoints.wait()
        if int(state.step) == loop.steps:
            try:
                print(f"for other libraries: {run} is a {export(run, mesh=mesh)} checkpoint too")
            except ValueError as error:
                print(f"not for other libraries: {error}")
    print(f"run: {run}")


if __name__ == "__main__":
    main()
