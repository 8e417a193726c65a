"""Where the job runs: how it meets Ray, the launcher and Kubernetes files, the image, and the check of those files."""
