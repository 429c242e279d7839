"""The statements of a recipe, checked one kind after the other and put together to a `Recipe`."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, Literal

from mopt import recipe
from mopt.check import constants
from mopt.check.apps import check_app
from mopt.check.coerce import Coercion
from mopt.check.loading import Program, base_of
from mopt.check.parameters import check_constants, overridden
from mopt.check.pipelines import Pipelines
from mopt.check.plugins import bind, find_class, instantiate, read_options
from mopt.check.references import References
from mopt.check.report import Report
from mopt.check.scope import KIND_WORDS, Scope
from mopt.check.settings import EvaluateOptions, ProfileSettings
from mopt.check.surroundings import Site, Surroundings
from mopt.check.usage import mentioned
from mopt.grammar import syntax
from mopt.grammar.diagnostics import Label, nearest
from mopt.grammar.source import Span
from mopt.plugin import PluginError, Registry, schema

_GROUPS = {"model": "sources", "data": "data", "loss": "losses", "metric": "metrics", "target": "targets"}


class Assembly:
    """One check of one recipe."""

    def __init__(self, program: Program, registry: Registry, overrides: Mapping[str, str], report: Report) -> None:
        assert program.root is not None
        self._program = program
        self._report = report
        self._registry = registry
        self._scope = Scope(program.lost, program.incomplete)
        self._declarations = [
            node
            for node in program.statements
            if isinstance(node, syntax.Param | syntax.Declaration | syntax.Pipeline)
            and self._scope.declare(node, report)
        ]
        values = overridden(self._scope, overrides, program.root.path, report)
        self._references = References(self._scope, values, check_constants(self._scope, values, report))
        self._references.use_builtin = self._use_builtin
        self._around = Surroundings(
            self._scope, report, registry, self._references, program.bases, base_of(program, program.root)
        )
        self._losses: dict[str, recipe.LossDecl] = {}
        self._metrics: dict[str, recipe.MetricDecl] = {}
        self._evaluations: list[recipe.Evaluate] = []

    def assemble(self, path: str) -> recipe.Recipe:
        """Check everything. The result is of use only if the report has no error."""
        made = {kind: self._declared(kind) for kind in _GROUPS}
        title, seed = self._title(), self._seed()
        for settings in self._settings("evaluate"):
            self._evaluate(settings)
        pipelines = Pipelines(self._around, self._is_evaluated)
        for node in self._declarations:
            if isinstance(node, syntax.Pipeline):
                symbol = self._scope.get(node.name.text)
                assert symbol is not None
                pipelines.check(symbol)
        self._check_globs(pipelines)
        apps = {
            node.name.text: app
            for node in self._declarations
            if isinstance(node, syntax.Declaration) and node.kind == "app" and (app := check_app(node, self._around))
        }
        profile = self._profile()
        self._emptiness()
        self._unused()
        return recipe.Recipe(
            path=path,
            title=title,
            parameters=self._parameters(),
            models={name: recipe.ModelDecl(name, one, place) for name, (one, place) in made["model"].items()},
            data={name: recipe.DataDecl(name, one, place) for name, (one, place) in made["data"].items()},
            losses=self._losses,
            metrics=self._metrics,
            pipelines=pipelines.done,
            apps=apps,
            targets={name: recipe.TargetDecl(name, one, place) for name, (one, place) in made["target"].items()},
            evaluations=tuple(self._evaluations),
            profile=profile,
            seed=seed,
        )

    def _parameters(self) -> dict[str, object]:
        return {
            symbol.name: constants.plain(value)
            for symbol in self._scope.symbols()
            if symbol.kind == "param" and (value := self._references.parameter(symbol)) is not None
        }

    # Declarations

    def _declared(self, kind: str) -> dict[str, tuple[Any, recipe.Place]]:
        made: dict[str, tuple[Any, recipe.Place]] = {}
        for node in self._declarations:
            if not isinstance(node, syntax.Declaration) or node.kind != kind:
                continue
            cls = find_class(node.call, _GROUPS[kind], self._registry, self._report)
            one = instantiate(node.call, cls, _GROUPS[kind], self._around) if cls is not None else None
            if one is None:
                continue
            name, place = node.name.text, _place(node.name.span)
            made[name] = (one, place)
            if kind == "loss":
                self._losses[name] = recipe.LossDecl(name, one, place)
            elif kind == "metric":
                self._metrics[name] = recipe.MetricDecl(name, one, _goal(one), place)
        return made

    def _use_builtin(self, kind: str, name: str, node: syntax.Reference) -> bool:
        """Enter a loss or a metric that the recipe names without declaring it."""
        known: Mapping[str, object] = self._losses if kind == "loss" else self._metrics
        if name in known:
            return True
        group = _GROUPS[kind]
        try:
            cls = self._registry.get(group, name)
            required = [option.name for option in schema(cls) if option.required]
            one = cls() if not required else None
        except (PluginError, NameError, TypeError, ValueError) as error:
            message = f"`{name}` can't be loaded"
            self._report.error("E0210", message, node.span, "its code is at fault", notes=[str(error)])
            return False
        if one is None:
            needs = ", ".join(f"`{option}`" for option in required)
            message = f"the built-in {kind} `{name}` needs {needs}"
            help = f"declare it: `{kind} NAME = {name}({required[0]}=…)`"
            self._report.error("E0205", message, node.span, "used without options", help=help)
            return False
        place = _place(node.span)
        if kind == "loss":
            self._losses[name] = recipe.LossDecl(name, one, place)
        else:
            self._metrics[name] = recipe.MetricDecl(name, one, _goal(one), place)
        return True

    # Statements that stand once

    def _single(self, kind: type[syntax.Title] | type[syntax.Seed], word: str, everywhere: bool) -> Any:
        root = self._program.root
        nodes = [node for node in self._program.statements if isinstance(node, kind)]
        if not everywhere:
            nodes = [node for node in nodes if node.span.source is root]
        for node in nodes[1:]:
            first = Label(nodes[0].span, "first given here")
            self._report.error("E0208", f"`{word}` is given twice", node.span, "given again", secondary=[first])
        return nodes[0] if nodes else None

    def _title(self) -> str | None:
        node: syntax.Title | None = self._single(syntax.Title, "recipe", everywhere=False)
        return node.title.value if node else None

    def _seed(self) -> int:
        node: syntax.Seed | None = self._single(syntax.Seed, "seed", everywhere=True)
        if node is None:
            return 0
        value = Coercion(self._around).value(node.value, int, Site("`seed`", 0, 2**32 - 1))
        return value if isinstance(value, int) else 0

    def _settings(self, kind: str) -> list[syntax.Settings]:
        return [node for node in self._program.statements if isinstance(node, syntax.Settings) and node.kind == kind]

    def _read(self, node: syntax.Settings, cls: type) -> dict[str, Any] | None:
        options = schema(cls)
        bound = bind(node.call, options, node.kind, None, self._report)
        return read_options(bound, options, node.kind, self._around)

    def _evaluate(self, node: syntax.Settings) -> None:
        values = self._read(node, EvaluateOptions)
        if values is None:
            return
        options = EvaluateOptions(**values)
        metrics = tuple(metric.name for metric in options.metrics)
        for index, name in enumerate(metrics):
            if name in metrics[:index]:
                span = _list_items(node, "metrics")[index]
                self._report.error("E0307", f"the metric `{name}` is listed twice", span, "again")
        self._evaluations.append(recipe.Evaluate(options.data, metrics, options.batch, options.pipelines))

    def _is_evaluated(self, names: tuple[str, str, str], metric: str) -> bool:
        return any(metric in one.metrics and _matches(one.pipelines, names) for one in self._evaluations)

    def _check_globs(self, pipelines: Pipelines) -> None:
        apps = (
            node.name.text for node in self._declarations if isinstance(node, syntax.Declaration) and node.kind == "app"
        )
        everything = [*(pipelines.state(name) for name in pipelines.done), *((app, "", "") for app in apps)]
        known = sorted({name for names in everything for name in names if name})
        for node in self._settings("evaluate"):
            for argument in node.call.arguments:
                if argument.name is None or argument.name.text != "pipelines":
                    continue
                value = argument.value
                for item in value.items if isinstance(value, syntax.ListValue) else [value]:
                    if isinstance(item, syntax.String) and not any(_matches((item.value,), one) for one in everything):
                        close = nearest(item.value, known)
                        label = f"did you mean `{close}`?" if close else "no pipeline and no model has such a name"
                        message = f'`"{item.value}"` matches no pipeline'
                        self._report.error("E0201", message, item.span, label)

    def _profile(self) -> recipe.ProfileOptions:
        nodes = self._settings("profile")
        for node in nodes[1:]:
            first = Label(nodes[0].call.name_span, "first given here")
            span = node.call.name_span
            self._report.error("E0208", "`profile` is given twice", span, "given again", secondary=[first])
        values = self._read(nodes[0], ProfileSettings) if nodes else None
        if values is None:
            return recipe.ProfileOptions()
        options = ProfileSettings(**values)
        targets = tuple(str(target) for target in options.targets)
        return recipe.ProfileOptions(
            options.batch,
            options.runs,
            options.warmup,
            float(options.precision),
            options.seconds,
            targets,
            options.bind,
        )

    # The recipe as a whole

    def _emptiness(self) -> None:
        root = self._program.root
        assert root is not None
        span = root.span(0, 0)
        if not self._program.statements:
            help = "a recipe declares a model and at least one pipeline"
            self._report.error("E0408", "the recipe is empty", span, "no statement", help=help)
        elif not any(isinstance(node, syntax.Pipeline) for node in self._program.statements):
            help = "it can be imported, but there is nothing to compile"
            self._report.warn("E0409", "the recipe has no pipeline", span, "nothing is made of a model here", help=help)

    def _unused(self) -> None:
        """Warn of what the recipe itself declares and never uses; imported recipes declare for others as well."""
        if not self._scope.names(("pipeline",)) or self._report.failed:
            return  # a slip in a name would be reported twice
        used = mentioned(self._program.statements)
        for symbol in self._scope.symbols():
            if symbol.kind in ("pipeline", "app", "target") or symbol.node.span.source is not self._program.root:
                continue
            if symbol.name not in used:
                message = f"`{symbol.name}` is never used"
                self._report.warn("E0701", message, symbol.node.name.span, f"declared as {KIND_WORDS[symbol.kind]}")


def _goal(metric: Any) -> Literal["min", "max"]:
    return "min" if getattr(metric, "goal", "max") == "min" else "max"


def _matches(globs: tuple[str, ...], names: tuple[str, str, str]) -> bool:
    return not globs or any(name == glob or fnmatchcase(name, glob) for glob in globs for name in names if name)


def _list_items(node: syntax.Settings, option: str) -> list[Span]:
    for index, argument in enumerate(node.call.arguments):
        name = argument.name.text if argument.name else [one.name for one in schema(EvaluateOptions)][index]
        if name == option and isinstance(argument.value, syntax.ListValue):
            return [item.span for item in argument.value.items]
    return [node.span] * 1000


def _place(span: Span) -> recipe.Place:
    return recipe.Place(span.path, *span.source.position(span.start))
