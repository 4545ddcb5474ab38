// Command clients is one streaming session as kubelet, kubectl and crictl hold it: with the packages of
// k8s.io/client-go that they use, against a URL that a runtime has given.
//
//	clients exec    -url URL -transport spdy|websocket [-stdin] [-tty] [-no-stderr] [-size 132x43]
//	clients forward -url URL -transport spdy|websocket -ports 0:8080,0:8081
//
// With -ca FILE the server must show one of its certificates. With -kubelet HOST:PORT the session goes through the handler
// with which kubelet hands on what an API server asks of it: with that Host, and a browser's Origin.
//
// exec connects its own stdio and exits with the command's code. forward prints the local ports, one line each, and
// forwards until its stdin ends.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
)

func main() {
	if len(os.Args) < 2 {
		fail(errors.New("what? exec or forward"))
	}
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	address := flags.String("url", "", "where the session is")
	transport := flags.String("transport", "spdy", "spdy or websocket")
	stdin := flags.Bool("stdin", false, "feed our stdin")
	tty := flags.Bool("tty", false, "ask for a terminal")
	noStderr := flags.Bool("no-stderr", false, "do not ask for stderr")
	size := flags.String("size", "", "columns x rows of the terminal")
	ports := flags.String("ports", "", "local:remote, with commas")
	host := flags.String("kubelet", "", "go through a kubelet's proxy, which clients call by this host and port")
	roots := flags.String("ca", "", "PEM file of certificates to trust, for localhost; without it any is good")
	_ = flags.Parse(os.Args[2:])

	target, err := url.Parse(*address)
	if err != nil {
		fail(err)
	}
	if *host != "" {
		target = throughKubelet(target, *host)
	}
	config := &rest.Config{TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
	if *roots != "" {
		config.TLSClientConfig = rest.TLSClientConfig{CAFile: *roots, ServerName: "localhost"}
	}
	switch os.Args[1] {
	case "exec":
		options := remotecommand.StreamOptions{Stdout: os.Stdout, Tty: *tty}
		if *stdin {
			options.Stdin = os.Stdin
		}
		if !*tty && !*noStderr {
			options.Stderr = os.Stderr
		}
		if *size != "" {
			options.TerminalSizeQueue = once(*size)
		}
		command(config, target, *transport, options)
	case "forward":
		forward(config, target, *transport, strings.Split(*ports, ","))
	default:
		fail(fmt.Errorf("what is %q?", os.Args[1]))
	}
}

func command(config *rest.Config, target *url.URL, transport string, options remotecommand.StreamOptions) {
	var executor remotecommand.Executor
	var err error
	if transport == "websocket" {
		executor, err = remotecommand.NewWebSocketExecutor(config, http.MethodGet, target.String())
	} else {
		executor, err = remotecommand.NewSPDYExecutor(config, http.MethodPost, target)
	}
	if err != nil {
		fail(err)
	}
	err = executor.StreamWithContext(context.Background(), options)
	var code exec.CodeExitError
	if errors.As(err, &code) {
		os.Exit(code.Code)
	}
	if err != nil {
		fail(err)
	}
}

func forward(config *rest.Config, target *url.URL, transport string, ports []string) {
	dialer, err := dialer(config, target, transport)
	if err != nil {
		fail(err)
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	forwarder, err := portforward.New(dialer, ports, stop, ready, io.Discard, os.Stderr)
	if err != nil {
		fail(err)
	}
	done := make(chan error, 1)
	go func() { done <- forwarder.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-done:
		fail(fmt.Errorf("never ready: %w", err))
	}
	forwarded, err := forwarder.GetPorts()
	if err != nil {
		fail(err)
	}
	for _, port := range forwarded {
		fmt.Println(port.Local)
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(stop)
	}()
	if err := <-done; err != nil {
		fail(err)
	}
}

func dialer(config *rest.Config, target *url.URL, transport string) (httpstream.Dialer, error) {
	if transport == "websocket" {
		return portforward.NewSPDYOverWebsocketDialer(target, config)
	}
	roundTripper, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return nil, err
	}
	return spdy.NewDialer(upgrader, &http.Client{Transport: roundTripper}, http.MethodPost, target), nil
}

// once is a terminal that has one size.
func once(text string) remotecommand.TerminalSizeQueue {
	var size remotecommand.TerminalSize
	if _, err := fmt.Sscanf(text, "%dx%d", &size.Width, &size.Height); err != nil {
		fail(err)
	}
	queue := make(sizes, 1)
	queue <- size
	return queue
}

type sizes chan remotecommand.TerminalSize

func (queue sizes) Next() *remotecommand.TerminalSize {
	size := <-queue
	return &size
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "clients:", err)
	os.Exit(255)
}
