// The yardstick of bench/admission.py: a mutating webhook as one writes it in Go with nothing but the standard library,
// and the load that is put on it and on Postern's webhook alike.
//
//	webhook serve CERT KEY INJECTION   listens on a port of 127.0.0.1 that it prints, until its standard input ends
//	webhook load URL CA REVIEW PARALLEL REQUESTS   posts one review over kept-alive TLS; prints JSON, times in ms
//
// INJECTION is JSON: the container, the volumes, labels and annotations that every pod gets.
package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

type review struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"`
	Request    *request  `json:"request,omitempty"`
	Response   *response `json:"response,omitempty"`
}

type request struct {
	UID    string          `json:"uid"`
	Object json.RawMessage `json:"object"`
}

type response struct {
	UID       string `json:"uid"`
	Allowed   bool   `json:"allowed"`
	PatchType string `json:"patchType,omitempty"`
	Patch     []byte `json:"patch,omitempty"`
}

type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

type injection struct {
	Container   map[string]any    `json:"container"`
	Volumes     []any             `json:"volumes"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	Pod         map[string]any    `json:"securityContext"`
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func member(pod map[string]any, name string) map[string]any {
	found, _ := pod[name].(map[string]any)
	return found
}

func merged(old map[string]any, added map[string]string) map[string]any {
	all := map[string]any{}
	for name, value := range old {
		all[name] = value
	}
	for name, value := range added {
		all[name] = value
	}
	return all
}

func patched(pod map[string]any, add injection) []operation {
	meta, spec := member(pod, "metadata"), member(pod, "spec")
	first, _ := spec["initContainers"].([]any)
	volumes, _ := spec["volumes"].([]any)
	return []operation{
		{"add", "/metadata/labels", merged(member(meta, "labels"), add.Labels)},
		{"add", "/metadata/annotations", merged(member(meta, "annotations"), add.Annotations)},
		{"add", "/spec/initContainers", append([]any{add.Container}, first...)},
		{"add", "/spec/volumes", append(append([]any{}, volumes...), add.Volumes...)},
		{"add", "/spec/securityContext", add.Pod},
	}
}

func inject(add injection) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 10<<20))
		if err != nil {
			http.Error(w, "too large", http.StatusRequestEntityTooLarge)
			return
		}
		var asked review
		if json.Unmarshal(body, &asked) != nil || asked.Request == nil {
			http.Error(w, "not an AdmissionReview", http.StatusBadRequest)
			return
		}
		answer := &response{UID: asked.Request.UID, Allowed: true}
		var pod map[string]any
		if json.Unmarshal(asked.Request.Object, &pod) == nil {
			answer.PatchType = "JSONPatch"
			answer.Patch, _ = json.Marshal(patched(pod, add))
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(review{APIVersion: asked.APIVersion, Kind: asked.Kind, Response: answer})
	}
}

func serve(certificate, key, file string) {
	var add injection
	text, err := os.ReadFile(file)
	must(err)
	must(json.Unmarshal(text, &add))
	pair, err := tls.LoadX509KeyPair(certificate, key)
	must(err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	mux := http.NewServeMux()
	mux.Handle("/inject", inject(add))
	// Over HTTP/1.1, as Postern's answers: the same protocol on both sides.
	server := &http.Server{Handler: mux, TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"http/1.1"}}}
	go func() { must(server.ServeTLS(listener, "", "")) }()
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func load(url, authority, file string, parallel, requests int) {
	body, err := os.ReadFile(file)
	must(err)
	roots := x509.NewCertPool()
	pem, err := os.ReadFile(authority)
	must(err)
	roots.AppendCertsFromPEM(pem)
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots}, MaxIdleConnsPerHost: parallel, MaxConnsPerHost: parallel,
	}, Timeout: 30 * time.Second}
	var next, failed, size atomic.Int64
	took := make([]float64, requests)
	post := func() bool {
		answer, err := client.Post(url, "application/json", bytes.NewReader(body))
		if err != nil {
			return false
		}
		defer answer.Body.Close()
		length, err := io.Copy(io.Discard, answer.Body)
		size.Store(length)
		return err == nil && answer.StatusCode == http.StatusOK
	}
	var all sync.WaitGroup
	all.Add(parallel)
	for range parallel { // the connections, and what is compiled or cached at the first request
		go func() { defer all.Done(); post() }()
	}
	all.Wait()
	began := time.Now()
	all.Add(parallel)
	for range parallel {
		go func() {
			defer all.Done()
			for {
				at := next.Add(1) - 1
				if at >= int64(requests) {
					return
				}
				start := time.Now()
				if !post() {
					failed.Add(1)
				}
				took[at] = float64(time.Since(start).Microseconds()) / 1000
			}
		}()
	}
	all.Wait()
	whole := time.Since(began).Seconds()
	sort.Float64s(took)
	must(json.NewEncoder(os.Stdout).Encode(map[string]any{
		"perSecond": float64(requests) / whole, "p50": took[requests/2], "p99": took[requests*99/100],
		"max": took[requests-1], "failed": failed.Load(), "answerBytes": size.Load(),
	}))
}

func main() {
	words := os.Args[1:]
	switch {
	case len(words) == 4 && words[0] == "serve":
		serve(words[1], words[2], words[3])
	case len(words) == 6 && words[0] == "load":
		parallel, err := strconv.Atoi(words[4])
		must(err)
		requests, err := strconv.Atoi(words[5])
		must(err)
		load(words[1], words[2], words[3], parallel, requests)
	default:
		fmt.Fprintln(os.Stderr, "usage: webhook serve CERT KEY INJECTION | webhook load URL CA REVIEW PARALLEL REQUESTS")
		os.Exit(2)
	}
}
