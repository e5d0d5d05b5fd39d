//go:build tools

// Package kwok names the program that the rig builds, so that its module file stays tidy.
package kwok

import _ "sigs.k8s.io/kwok/cmd/kwok"
