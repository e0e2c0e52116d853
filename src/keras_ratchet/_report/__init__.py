"""The report of runs: one page of HTML with everything in it.

`find` says which directories are runs, `runs` what is known of them, `curves` what the page draws,
`tables` and `page` write HTML. report.css and report.js are put into the page as they are.
"""
