package main

import (
	"net"
	"net/http"
	"net/url"

	"k8s.io/apimachinery/pkg/util/proxy"
)

type refusals struct{}

func (refusals) Error(answer http.ResponseWriter, _ *http.Request, err error) {
	http.Error(answer, err.Error(), http.StatusBadGateway)
}

// throughKubelet is where a proxy listens that hands requests on to target as kubelet does.
func throughKubelet(target *url.URL, host string) *url.URL {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fail(err)
	}
	handler := proxy.NewUpgradeAwareHandler(target, nil, false, true, refusals{})
	asApiServer := func(answer http.ResponseWriter, request *http.Request) {
		request.Host = host
		request.Header.Set("Origin", "https://console.example")
		handler.ServeHTTP(answer, request)
	}
	go func() { fail(http.Serve(listener, http.HandlerFunc(asApiServer))) }()
	return &url.URL{Scheme: "http", Host: listener.Addr().String(), Path: "/"}
}
