"""What NetworkPolicies allow, by the rules of Kubernetes' API: between pods of one namespace."""


def selects(selector, labels):
    """Whether a label selector fits a pod."""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for each in selector.get("matchExpressions", []):
        if each["operator"] == "Exists":
            fits = each["key"] in labels
        else:
            assert each["operator"] == "In"
            fits = labels.get(each["key"]) in each["values"]
        if not fits:
            return False
    return True


def _peer_fits(peer, labels):
    """labels: of a pod in the namespace, or an address outside the cluster as text"""
    if isinstance(labels, str):
        return "ipBlock" in peer and not any(
            labels.startswith(block.split(".0.0/")[0]) for block in peer["ipBlock"]["except"]
        )
    return "podSelector" in peer and selects(peer["podSelector"], labels)


def _one_way(policies, direction, side, pod, other, port):
    mine = [
        policy["spec"]
        for policy in policies
        if direction in policy["spec"]["policyTypes"]
        and selects(policy["spec"]["podSelector"], pod)
    ]
    if not mine:
        return True  # not isolated
    return any(
        (not rule.get(side) or any(_peer_fits(peer, other) for peer in rule[side]))
        and port in [each["port"] for each in rule["ports"]]
        for spec in mine
        for rule in spec.get(direction.lower(), [])
    )


def allowed(policies, source, target, port):
    """Whether a pod reaches another one, or an address outside, at a port (its number, or its
    name where policies name it)."""
    leaves = _one_way(policies, "Egress", "to", source, target, port)
    if isinstance(target, str):
        return leaves
    return leaves and _one_way(policies, "Ingress", "from", target, source, port)
