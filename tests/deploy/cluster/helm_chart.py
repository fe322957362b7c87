"""The values that Dagster's Helm chart takes, at the places that ours use."""

POD = (
    "env envConfigMaps envSecrets labels nodeSelector affinity tolerations annotations "
    "podSecurityContext"
)
POD += " securityContext resources livenessProbe readinessProbe startupProbe volumes volumeMounts"
POD += " schedulerName image"
# What the chart's schema (the models in helm/dagster/schema that it is made from) takes at the
# places that our values use; written down by hand, so that a misspelt value is found where no chart
# is at hand.
CHART = {
    "": "additionalInstanceConfig busybox computeLogManager concurrency dagster-user-deployments "
    "dagsterDaemon"
    " dagsterWebserver flower generateCeleryConfigSecret generatePostgresqlPasswordSecret global "
    "imagePullSecrets"
    " ingress migrate postgresql pythonLogs rabbitmq redis retention runLauncher scheduler "
    "serviceAccount telemetry",
    "global": "postgresqlSecretName dagsterHome serviceAccountName celeryConfigSecretName "
    "dagsterInstanceConfigMap",
    "postgresql": "image enabled postgresqlHost postgresqlUsername postgresqlPassword "
    "postgresqlDatabase"
    " postgresqlParams postgresqlScheme service",
    "postgresql.service": "port",
    "dagsterWebserver": POD
    + " replicaCount nameOverride service workspace deploymentLabels enableReadOnly"
    " dbStatementTimeout dbPoolRecycle logLevel pathPrefix",
    "dagsterWebserver.image": "repository tag pullPolicy",
    "dagsterDaemon": POD
    + " enabled runCoordinator heartbeatTolerance deploymentLabels runMonitoring runRetries sensors"
    " schedules",
    "dagsterDaemon.image": "repository tag pullPolicy",
    "dagsterDaemon.runCoordinator": "enabled type config",
    "dagsterDaemon.runCoordinator.config": "queuedRunCoordinator customRunCoordinator",
    "dagsterDaemon.runCoordinator.config.queuedRunCoordinator": "maxConcurrentRuns "
    "tagConcurrencyLimits"
    " dequeueIntervalSeconds dequeueNumWorkers dequeueUseThreads blockOpConcurrencyLimitedRuns",
    "dagsterDaemon.runMonitoring": "enabled startTimeoutSeconds cancelTimeoutSeconds "
    "maxResumeRunAttempts"
    " pollIntervalSeconds freeSlotsAfterRunEndSeconds",
    "dagsterDaemon.runRetries": "enabled maxRetries",
    "dagster-user-deployments": "enabled enableSubchart imagePullSecrets deployments",
    "dagster-user-deployments.deployments": POD + " name port dagsterApiGrpcArgs codeServerArgs"
    " includeConfigInLaunchedRuns",
    "dagster-user-deployments.deployments.image": "repository tag pullPolicy",
    "dagster-user-deployments.deployments.includeConfigInLaunchedRuns": "enabled",
    "runLauncher": "type config",
    "runLauncher.config": "celeryK8sRunLauncher k8sRunLauncher customRunLauncher",
    "runLauncher.config.k8sRunLauncher": "image imagePullPolicy jobNamespace loadInclusterConfig "
    "kubeconfigFile"
    " envConfigMaps envSecrets envVars volumes volumeMounts labels failPodOnRunFailure resources "
    "schedulerName"
    " securityContext runK8sConfig",
    "runLauncher.config.k8sRunLauncher.runK8sConfig": "containerConfig podSpecConfig "
    "podTemplateSpecMetadata"
    " jobSpecConfig jobMetadata",
    "retention": "enabled sensor schedule autoMaterialize",
    "retention.sensor": "purgeAfterDays",
    "retention.sensor.purgeAfterDays": "skipped success failure started",
    "retention.schedule": "purgeAfterDays",
    "telemetry": "enabled",
}


def unknown_values(values, place=""):
    """Values below a place that the chart does not have. What CHART does not name is Kubernetes'
    own, or free."""
    found = (
        []
        if place not in CHART
        else [f"{place}.{key}" for key in values if key not in CHART[place].split()]
    )
    for key, value in values.items():
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, dict):
                found += unknown_values(part, f"{place}.{key}".lstrip("."))
    return found
