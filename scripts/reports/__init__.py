"""Reports of runs, as files, as pages, and as differences.

    reading                parse a report of either engine, or find it
    report_file            the file of `--report`, opened before the run
    report_page            one page with all that it needs; its template, style and script are in `scripts/page/`
    page_document, engine_page   the values that the page draws
    comparison             how two runs differ

The same for both kinds of engine, built-in and real.
"""
