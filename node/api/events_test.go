package api

import (
	"bufio"
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func TestReadEvents(t *testing.T) {
	for _, tt := range []struct {
		name, stream string
		progress     int    // events expected
		root         string // of the result expected
		err          error  // expected
	}{
		{name: "result", stream: `{"result":{"root":"r"}}`, root: "r"},
		{name: "progress", stream: `{"progress":{"bytes":1}}` + "\n" + `{"progress":{"bytes":2}}` + "\n" + `{"result":{"root":"r"}}` + "\n", progress: 2, root: "r"},
		{name: "nothing after the result counts", stream: `{"result":{"root":"r"}}` + "\nnonsense", root: "r"},
		{name: "error", stream: `{"progress":{}}` + "\n" + `{"error":{"message":"m","code":"quota"}}`, progress: 1, err: ErrQuota},
		{name: "empty", stream: "", err: errEnded},
		{name: "cut off", stream: `{"progress":{}}` + "\n", progress: 1, err: errEnded},
		{name: "no event", stream: `{}`, err: errMalformed},
		{name: "no JSON", stream: "404 page not found\n", err: errMalformed},
		{name: "wrong type", stream: `{"result":[1]}`, err: errMalformed},
		{name: "too long", stream: `{"result":"` + strings.Repeat("x", maxEvent) + `"}`, err: bufio.ErrTooLong},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got AddResult
			progress := 0
			err := readEvents(strings.NewReader(tt.stream), func(Progress) { progress++ }, &got)
			if !errors.Is(err, tt.err) {
				t.Errorf("got error %v, want %v", err, tt.err)
			}
			if progress != tt.progress || got.Root != tt.root {
				t.Errorf("got %d progress events and root %q, want %d and %q", progress, got.Root, tt.progress, tt.root)
			}
		})
	}
}

// FuzzReadEvents checks that no answer makes a client panic, and that a result
// that it accepts survives another trip.
func FuzzReadEvents(f *testing.F) {
	f.Add([]byte(`{"progress":{"phase":"adding","bytes":1}}` + "\n" + `{"result":{"peer":"p","sites":[{"root":"r"}]}}`))
	f.Add([]byte(`{"error":{"message":"m","code":"usage"}}`))
	f.Add([]byte(`{"result":null}`))
	f.Fuzz(func(t *testing.T, stream []byte) {
		var got Status
		if err := readEvents(strings.NewReader(string(stream)), func(Progress) {}, &got); err != nil {
			_ = err.Error()
			return
		}
		data, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		line, err := json.Marshal(event{Result: data})
		if err != nil {
			t.Fatal(err)
		}
		var again Status
		if err := readEvents(strings.NewReader(string(line)), nil, &again); err != nil {
			t.Fatal(err)
		}
		if b, _ := json.Marshal(again); string(b) != string(data) {
			t.Errorf("%s became %s", data, b)
		}
	})
}
