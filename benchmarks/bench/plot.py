def svg(r):
    return ""
