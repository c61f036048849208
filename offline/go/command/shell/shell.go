// Package shell holds what commands have in common, wherever they run.
package shell

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"

	p "github.com/pulumi/pulumi-go-provider"
)

// Commands are the steps of a resource's life. Without Update, a change of any input runs Create again.
type Commands struct {
	Triggers *[]any  `pulumi:"triggers,optional" provider:"replaceOnChanges"`
	Create   *string `pulumi:"create,optional"`
	Update   *string `pulumi:"update,optional"`
	Delete   *string `pulumi:"delete,optional"`
}

// OnUpdate is the command for a changed resource; nil if there is none.
func (c Commands) OnUpdate() *string {
	if c.Update != nil {
		return c.Update
	}
	return c.Create
}

// Output is what a command printed, each without its last newline.
type Output struct {
	Stdout string `pulumi:"stdout"`
	Stderr string `pulumi:"stderr"`
}

// Previous is the output of the step before, as the environment variables of the next one.
func (o Output) Previous(wanted *bool) map[string]string {
	variables := map[string]string{}
	if wanted != nil && !*wanted {
		return variables
	}
	if o.Stdout != "" {
		variables["PULUMI_COMMAND_STDOUT"] = o.Stdout
	}
	if o.Stderr != "" {
		variables["PULUMI_COMMAND_STDERR"] = o.Stderr
	}
	return variables
}

// Capture collects what a command prints and shows each line while the command still runs.
type Capture struct {
	Stdout, Stderr stream

	lock sync.Mutex
	both bytes.Buffer
}

// NewCapture makes a Capture that shows the streams that `logging` names; nil means both.
func NewCapture(ctx context.Context, logging *string) (*Capture, error) {
	shown := "stdoutAndStderr"
	if logging != nil {
		shown = *logging
	}
	c := &Capture{}
	c.Stdout.capture, c.Stderr.capture = c, c
	show := p.GetLogger(ctx).InfoStatus
	switch shown {
	case "stdoutAndStderr":
		c.Stdout.show, c.Stderr.show = show, show
	case "stdout":
		c.Stdout.show = show
	case "stderr":
		c.Stderr.show = show
	case "none":
	default:
		return nil, fmt.Errorf("logging: %q; allowed: stdout, stderr, stdoutAndStderr, none", shown)
	}
	return c, nil
}

// Result is the output of a command that has ended with `err`.
func (c *Capture) Result(command string, err error) (Output, error) {
	c.Stdout.end()
	c.Stderr.end()
	if err != nil {
		return Output{}, fmt.Errorf("%w: running %q:\n%s", err, command, c.both.String())
	}
	return Output{Stdout: c.Stdout.String(), Stderr: c.Stderr.String()}, nil
}

// stream is one of a command's two outputs, written to by a goroutine of its own.
type stream struct {
	capture *Capture
	show    func(line string)
	text    bytes.Buffer
	line    []byte
}

func (s *stream) Write(data []byte) (int, error) {
	s.capture.lock.Lock()
	defer s.capture.lock.Unlock()
	s.text.Write(data)
	s.capture.both.Write(data)
	if s.show == nil {
		return len(data), nil
	}
	s.line = append(s.line, data...)
	for {
		line, rest, ended := bytes.Cut(s.line, []byte("\n"))
		if !ended {
			return len(data), nil
		}
		s.show(string(line))
		s.line = rest
	}
}

func (s *stream) end() {
	if s.show != nil && len(s.line) > 0 {
		s.show(string(s.line))
	}
}

func (s *stream) String() string { return strings.TrimSuffix(s.text.String(), "\n") }
