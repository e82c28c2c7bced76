"""How is a checkpoint scored?

One way, whatever is scored::

    checkpoint, or predictions from a file (recorded.py: a "network" that looks answers up)
      --test loop, protocol.measure--> rows of a batch          (module.py; kept in parts, rows.py)
      --gather, protocol.complete----> rows of the whole set    (rows.py)
      --protocol.summary, report-----> report.json, .md, .html  (run.py, samples.py)

Rows are saved as they come, so that an evaluation that was killed goes on where it was
(``resume=true``), and all numbers of a report are made of rows: several processes, an interrupted
evaluation and a later ``hmrkit.compare`` see the same ones. ``predictions_out=`` also writes what
the network said (predictions.py), in the form that ``predictions=`` reads.
"""
