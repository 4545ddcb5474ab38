// Package conformance runs the cases by which the Kubernetes project judges a container runtime
// (critest's), unchanged, against the endpoint that it is given.
//
// Everything that the cases need from outside (a runtime, the images that they pull) is made by
// the program that starts this one: test-e2e/src/bin/conformance.rs.
package conformance

import (
	"testing"

	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/gomega"

	"sigs.k8s.io/cri-tools/pkg/framework"
	// The cases: each file registers its own when it is loaded.
	_ "sigs.k8s.io/cri-tools/pkg/validate"
)

// The cases' own flags (-runtime-endpoint, -websocket-exec ...) stand beside ginkgo's, which
// testing parses before any test begins.
func init() {
	framework.RegisterFlags()
}

// TestConformance is the whole suite.
func TestConformance(t *testing.T) {
	gomega.RegisterFailHandler(ginkgo.Fail)
	ginkgo.RunSpecs(t, "CRI validation")
}
