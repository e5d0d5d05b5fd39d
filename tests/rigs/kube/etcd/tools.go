//go:build tools

// Package etcd names the program that the rig builds, so that its module file stays tidy.
package etcd

import _ "go.etcd.io/etcd/server/v3/etcdmain"
