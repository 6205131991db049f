"""What MLflow's UI shows first: the description of the experiment, a view of its runs, and addresses."""

import json
import socket
import zlib
from base64 import b64encode

import requests

PORTS = range(5000, 5010)  # of `mlflow ui` on this machine: its own, and those that are tried if that is taken
VIEW = "mlflow.sharedViewState."
LAYERS = 9  # as many as model=deep has, output layer included
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
    "*Views*, *Variants* lists all jobs, best first, and charts them side by side, layer by layer."
)


def experiment_tags() -> dict[str, str]:
    """Returns the tags of an experiment: its description, that its runs train models, and the view `Variants`."""
    every = _state("tags.init != ''")  # without parent runs, which have no such tag
    return {
        "mlflow.note.content": ABOUT,
        "mlflow.experimentKind": "custom_model_development",
        f"{VIEW}variants": json.dumps({"name": "Variants", "createdAt": 0, "updatedAt": 0, "state": every}),
    }


def view_of_jobs(parent_id: str) -> tuple[str, str]:
    """Returns the tag (name, value) that adds a view of a sweep's jobs to an experiment: to link to, not listed."""
    return f"{VIEW}{parent_id}", _state(f"tags.`sweep.{parent_id}` != ''")


def address(experiment_id: str, run_id: str) -> str:
    """Returns the part of a run's address that comes after the server's."""
    return f"#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"


def address_of_jobs(experiment_id: str, parent_id: str) -> str:
    """Returns the same part of the address of a view of a sweep's jobs, as charts."""
    view = f"viewStateShareKey={parent_id}&compareRunsMode=CHART"
    return f"#/experiments/{experiment_id}/runs?{view}&workflowType=machine_learning"


def local_port(run_id: str, port: int | None = None) -> tuple[int, bool]:
    """Returns the port for `mlflow ui` on this machine, and whether a UI that shows the run answers there already.

    That is `port` or, if it is None, the first of `PORTS` that no other program has. On macOS, AirPlay has port 5000.
    """
    for candidate in PORTS if port is None else [port]:
        try:
            socket.create_connection(("127.0.0.1", candidate), timeout=1).close()
        except OSError:
            return candidate, False
        if _shows(candidate, run_id):
            return candidate, True
    return port or PORTS[0], False


def _shows(port: int, run_id: str) -> bool:
    """Returns whether an MLflow server at this port of this machine has the run."""
    with requests.Session() as session:
        session.trust_env = False  # no proxy
        address = f"http://127.0.0.1:{port}/api/2.0/mlflow/runs/get"
        try:
            return session.get(address, params={"run_id": run_id}, timeout=2).ok
        except requests.RequestException:
            return False


def _state(query: str) -> str:
    """Returns the view of the runs that a query finds, as MLflow's UI saves it ("Save as new view")."""
    return f"deflate;{b64encode(zlib.compress(json.dumps(_variants(query)).encode())).decode()}"


def _variants(query: str) -> dict[str, object]:
    """Returns the view: runs by test accuracy, the most useful columns, and charts.

    There is one chart per result, and one row of charts per statistic, with one chart per layer.
    """
    charts = [_chart("test/accuracy", "results", kind="BAR"), *(_chart(name, "results") for name in RESULTS)]
    charts += [
        _chart(f"layer{layer}/{name}", name, logarithmic)
        for name, logarithmic in STATISTICS.items()
        for layer in range(1, LAYERS + 1)
    ]
    metrics = ("test/accuracy", "test/accuracy.ci95", "val/loss")
    tags = ("init", "activation", "model", "seed")
    return {
        "orderByKey": "metrics.`test/accuracy`",  # by any other column than time, jobs are listed beside their parents
        "orderByAsc": False,
        "searchFilter": query,
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
        "hideEmptyCharts": True,  # those of layers that no run has
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
