"""What is shipped for other programs: a dashboard for Grafana, alert rules for Prometheus."""
