"""What MLflow's UI shows first: the experiment's description, a view of its runs, and the address of one."""

import json
import zlib
from base64 import b64encode

LAYERS = 9  # as many as model=deep has
RESULTS = "val/accuracy", "val/loss", "train/loss"
STATISTICS = {  # statistic: is its axis logarithmic?
    "act_std": True,
    "act_mean": False,
    "delta_std": True,
    "grad_std": True,
    "dead_fraction": False,
    "update_ratio": True,
}
ABOUT = (
    "What weight initialisation does to a neural network. Each run trains several replicas: a metric is their mean, "
    "`<name>.ci95` beside it the half-width of its 95 % interval. A sweep is a run with its jobs nested under it. "
    "*Views*, *Variants* lists the jobs, best first, and charts them side by side, layer by layer."
)


def experiment_tags() -> dict[str, str]:
    """Tags of a new experiment: its description, that its runs train models, and the view `Variants`."""
    state = b64encode(zlib.compress(json.dumps(_variants()).encode())).decode()
    view = {"name": "Variants", "createdAt": 0, "updatedAt": 0, "state": f"deflate;{state}"}
    return {
        "mlflow.note.content": ABOUT,
        "mlflow.experimentKind": "custom_model_development",
        "mlflow.sharedViewState.variants": json.dumps(view),
    }


def address(experiment_id: str, run_id: str | None = None) -> str:
    """The part of an address that comes after the server's: of a run, or of the view."""
    page = f"runs/{run_id}?" if run_id else "runs?viewStateShareKey=variants&compareRunsMode=CHART&"
    return f"#/experiments/{experiment_id}/{page}workflowType=machine_learning"


def _variants() -> dict[str, object]:
    """Runs by test accuracy, with the columns people want first; a chart a result, and a row of charts a statistic,
    one a layer. In the form in which MLflow's UI saves a view ("Save as new view").
    """
    charts = [_chart("test/accuracy", "results", kind="BAR"), *(_chart(name, "results") for name in RESULTS)]
    charts += [
        _chart(f"layer{layer}/{name}", name, logarithmic)
        for name, logarithmic in STATISTICS.items()
        for layer in range(1, LAYERS + 1)
    ]
    metrics = ("test/accuracy", "test/accuracy.ci95", "val/loss")
    tags = ("init", "model", "seed")
    return {
        "orderByKey": "metrics.`test/accuracy`",  # by any other column than time, jobs are listed beside their parents
        "orderByAsc": False,
        "searchFilter": "tags.init != ''",  # parents have none
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [*(f"metrics.`{m}`" for m in metrics), "params.`replicas`", *(f"tags.`{t}`" for t in tags)],
        "runsHiddenMode": "FIRST_20_RUNS",
        "compareRunCharts": charts,
        "compareRunSections": [
            {"uuid": name, "name": name, "display": True, "isReordered": True, "deleted": False, "isGenerated": False}
            for name in ("results", *STATISTICS)
        ],
        "isAccordionReordered": True,
        "hideEmptyCharts": True,  # of layers that no run has
        "groupBy": None,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }


def _chart(metric: str, section: str, logarithmic: bool = False, kind: str = "LINE") -> dict[str, object]:
    return {
        "uuid": metric,
        "type": kind,
        "metricSectionId": section,
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "displayName": metric,
        "runsCountToCompare": 20,
        "deleted": False,
        "isGenerated": False,
        "xAxisKey": "step",
        "xAxisScaleType": "linear",
        "scaleType": "log" if logarithmic else "linear",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "lineSmoothness": 0,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
        "selectedXAxisMetricKey": "",
        "ignoreOutliers": False,
    }
