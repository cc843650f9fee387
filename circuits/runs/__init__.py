"""Runs on disk: what each was made from, found again, compared, drawn again, handed on.

    runs/<case>/<model>-<id>/run.json        what it was made from (record)
                            /kept/           blocks of what was computed (engine.kept): the same command goes on from them
                            /data/           results: frames and tensors
                            /index.html …    the report, and report.json from which it can be drawn again

`record` is run.json, `found` lists and names runs, `differences` compares two, `redrawn` and `exported` make files of one,
`command` is `circuits runs`.
"""
