from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric
from servers import MlflowServer, free_port, postgres
from sqlalchemy import NullPool, create_engine, text


def test_points_that_a_server_took_outlive_it(tmp_path: Path) -> None:
    points = 1000
    with postgres(tmp_path) as database, MlflowServer(database, tmp_path, free_port()) as server:
        client = MlflowClient(server.uri)
        run_id = client.create_run(client.create_experiment("any")).info.run_id
        client.log_batch(run_id, [Metric("loss", 1 / (step + 1), timestamp=step, step=step) for step in range(points)])
        server.kill()
        server.start()
        with create_engine(database, poolclass=NullPool).connect() as connection:
            count = text("SELECT count(*), count(DISTINCT step) FROM metrics WHERE run_uuid = :run")
            assert connection.execute(count, {"run": run_id}).one() == (points, points)
        assert len(client.get_metric_history(run_id, "loss")) == points
