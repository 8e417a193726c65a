"""The policies of AWS and Google give what the run needs: each right widened by a little is refused."""

from pathlib import Path

import pytest

from cluster import validate

IAM = Path(__file__).resolve().parents[2] / "cluster" / "iam"
GROUPS = '"arn:aws:ec2:us-west-2:YOUR-ACCOUNT:security-group/*",\n      "Condition": {"StringEquals": '
HEAD = (
    ('"g5.xlarge", "g6.xlarge"', '"p5.48xlarge"', "ec2:InstanceType is what aws.yaml starts"),
    ('          "ec2:InstanceType": ["g5.xlarge", "g6.xlarge"],\n', "", "ec2:InstanceType"),
    ("us-west-2:YOUR-ACCOUNT:instance", "*:YOUR-ACCOUNT:instance", "not of us-west-2"),
    ("subnet/YOUR-PRIVATE-SUBNET-A", "subnet/*", "none of aws.yaml's subnets"),
    ('"aws:RequestTag/ray-cluster-name": "wordmint",', "", "with the cluster's tag"),
    ('"iam:PassedToService": "ec2.amazonaws.com"', '"iam:PassedToService": "lambda.amazonaws.com"', "to EC2 alone"),
    ("arn:aws:ec2:us-west-2:YOUR-ACCOUNT:volume/*", "*", "on a resource of this cluster's"),
    ('"aws:ResourceTag/ray-cluster-name"', '"aws:ResourceTag/other"', "of this cluster's machines alone"),
    ('{"StringEquals": {"ec2:Owner": "amazon"}}', "{}", "only with ec2:Owner amazon"),
    ('"ec2:Owner": "amazon"', '"ec2:Owner": "aws-marketplace"', "only with ec2:Owner amazon"),
    ('"ec2:AssociatePublicIpAddress": "false"', '"ec2:AssociatePublicIpAddress": "true"', "AssociatePublicIpAddress"),
    ('"ec2:Encrypted": "true"', '"ec2:Encrypted": "false"', "only with ec2:Encrypted true"),
    ('"ec2:VolumeSize": "150"', '"ec2:VolumeSize": "16000"', "only with ec2:VolumeSize 150"),
    ("key-pair/ray-autoscaler_*", "key-pair/*", "the key that Ray makes"),
    ("ec2:DescribeImages", "ec2:Describe*", "each action is named"),
    ("ec2:DescribeImages", "ec2:DescribeInstanceAttribute", "on a resource of this cluster's"),
    (GROUPS + '{"aws:ResourceTag/ray-cluster-name"', GROUPS + '{"aws:ResourceTag/other"', "only with aws:ResourceTag"),
    ('"aws:RequestedRegion"', '"aws:username"', "in one region"),
)
WORKER = (
    ('"Resource": "arn:aws:s3:::YOUR-BUCKET/runs/*"', '"Resource": "arn:aws:s3:::YOUR-BUCKET/*"', "runs/ is written"),
    ("arn:aws:s3:::YOUR-BUCKET/in/*", "arn:aws:s3:::YOUR-BUCKET/*", "in/ is read beside it"),
    ('"s3:prefix"', '"s3:delimiter"', "of prefixes"),
    ('"s3:GetObject"', '"s3:*"', "each action is named"),
    ('"Condition"', '"Conditions"', "no element of a statement"),
)
OTHERS = (
    ("bucket.json", "2012-10-17", "2008-10-17", "Version"),
    ("gcp-head.yaml", "compute.projects.get", "compute.projects.setIamPolicy", "lets its holder give himself more"),
    ("gcp-head.yaml", "compute.zoneOperations.get", "iam.serviceAccounts.actAs", "lets its holder give himself more"),
)


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [*(("head.json", *each) for each in HEAD), *(("worker.json", *each) for each in WORKER), *OTHERS],
)
def test_a_wider_right_is_refused(tmp_path: Path, file: str, old: str, new: str, said: str) -> None:
    text = (IAM / file).read_text(encoding="utf-8")
    assert old in text, "the mutation has to change something"
    (tmp_path / file).write_text(text.replace(old, new), encoding="utf-8")
    problems = validate.problems(tmp_path / file)
    assert any(said in problem for problem in problems), problems
