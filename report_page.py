def write_report(root):
    p=root/"report.html"; p.write_text("x"); return p
