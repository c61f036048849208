// Package remote runs commands and copies files over SSH.
package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi-go-provider/infer"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// Endpoint is one SSH server and how to log in there.
type Endpoint struct {
	Host               *string  `pulumi:"host"`
	Port               *float64 `pulumi:"port,optional"`
	User               *string  `pulumi:"user,optional"`
	Password           *string  `pulumi:"password,optional" provider:"secret"`
	PrivateKey         *string  `pulumi:"privateKey,optional" provider:"secret"`
	PrivateKeyPassword *string  `pulumi:"privateKeyPassword,optional" provider:"secret"`
	AgentSocketPath    *string  `pulumi:"agentSocketPath,optional"`
	HostKey            *string  `pulumi:"hostKey,optional"`
	DialErrorLimit     *int     `pulumi:"dialErrorLimit,optional"`
	PerDialTimeout     *int     `pulumi:"perDialTimeout,optional"`
}

func (e *Endpoint) defaults(a infer.Annotator) {
	a.SetDefault(&e.User, "root")
	a.SetDefault(&e.Port, 22)
	a.SetDefault(&e.DialErrorLimit, 10)
	a.SetDefault(&e.PerDialTimeout, 15)
}

// ProxyConnection is a server that is connected through.
type ProxyConnection struct{ Endpoint }

// Annotate tells the defaults.
func (c *ProxyConnection) Annotate(a infer.Annotator) { c.defaults(a) }

// Connection is the server on which things happen.
type Connection struct {
	Endpoint
	Proxy *ProxyConnection `pulumi:"proxy,optional"`
}

// Annotate tells the defaults.
func (c *Connection) Annotate(a infer.Annotator) { c.defaults(a) }

// Dial connects, trying again while the server can't be reached.
func (c *Connection) Dial(ctx context.Context) (*ssh.Client, error) {
	if c.Proxy == nil {
		return c.dial(ctx, "Dial", net.DialTimeout)
	}
	proxy, err := c.Proxy.dial(ctx, "Dial proxy", net.DialTimeout)
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	return c.dial(ctx, "Dial from proxy", func(network, address string, _ time.Duration) (net.Conn, error) {
		return proxy.Dial(network, address)
	})
}

type dialer func(network, address string, timeout time.Duration) (net.Conn, error)

func (e Endpoint) dial(ctx context.Context, what string, dial dialer) (*ssh.Client, error) {
	config, err := e.config()
	if err != nil {
		return nil, err
	}
	address := net.JoinHostPort(*e.Host, strconv.Itoa(int(*e.Port)))
	limit := *e.DialErrorLimit
	wait := 100 * time.Millisecond
	for failed := 1; ; failed++ {
		client, err := handshake(dial, address, config)
		if err == nil {
			return client, nil
		}
		if limit >= 0 && failed > limit {
			return nil, fmt.Errorf("after %d failed attempts: %w", failed, err)
		}
		shown := "inf"
		if limit >= 0 {
			shown = strconv.Itoa(limit)
		}
		p.GetLogger(ctx).InfoStatusf("%s %d/%s failed: retrying", what, failed, shown)
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), err)
		case <-time.After(wait):
			wait = min(wait*3/2, 5*time.Second)
		}
	}
}

func handshake(dial dialer, address string, config *ssh.ClientConfig) (*ssh.Client, error) {
	raw, err := dial("tcp", address, config.Timeout)
	if err != nil {
		return nil, err
	}
	conn, channels, requests, err := ssh.NewClientConn(raw, address, config)
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	return ssh.NewClient(conn, channels, requests), nil
}

func (e Endpoint) config() (*ssh.ClientConfig, error) {
	config := &ssh.ClientConfig{
		User:    *e.User,
		Timeout: time.Duration(*e.PerDialTimeout) * time.Second,
		// As published: without a host key any server is taken for the right one.
		HostKeyCallback: ssh.InsecureIgnoreHostKey(), //nolint:gosec
	}
	if e.HostKey != nil {
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(*e.HostKey))
		if err != nil {
			return nil, fmt.Errorf("hostKey: %w", err)
		}
		config.HostKeyCallback = ssh.FixedHostKey(key)
		config.HostKeyAlgorithms = []string{key.Type()}
	}
	if e.PrivateKey != nil {
		signer, err := e.signer()
		if err != nil {
			return nil, fmt.Errorf("privateKey: %w", err)
		}
		config.Auth = append(config.Auth, ssh.PublicKeys(signer))
	}
	if e.Password != nil {
		config.Auth = append(config.Auth, ssh.Password(*e.Password), ssh.KeyboardInteractive(
			func(_, _ string, questions []string, _ []bool) ([]string, error) {
				answers := make([]string, len(questions))
				for i := range answers {
					answers[i] = *e.Password
				}
				return answers, nil
			}))
	}
	socket := os.Getenv("SSH_AUTH_SOCK")
	if e.AgentSocketPath != nil {
		socket = *e.AgentSocketPath
	}
	if socket != "" {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			return nil, fmt.Errorf("SSH agent: %w", err)
		}
		config.Auth = append(config.Auth, ssh.PublicKeysCallback(agent.NewClient(conn).Signers))
	}
	return config, nil
}

func (e Endpoint) signer() (ssh.Signer, error) {
	if e.PrivateKeyPassword != nil {
		return ssh.ParsePrivateKeyWithPassphrase([]byte(*e.PrivateKey), []byte(*e.PrivateKeyPassword))
	}
	return ssh.ParsePrivateKey([]byte(*e.PrivateKey))
}
