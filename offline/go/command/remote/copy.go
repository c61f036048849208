package remote

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/pkg/sftp"
	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi-go-provider/infer"
	"github.com/pulumi/pulumi-go-provider/infer/types"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
)

// CopyToRemote is the resource `command:remote:CopyToRemote`. Its delete leaves the copy where it is.
type CopyToRemote struct{}

// CopyToRemoteInputs are its inputs. The source is a file, a text, or a folder.
type CopyToRemoteInputs struct {
	Connection *Connection          `pulumi:"connection" provider:"secret"`
	Triggers   *[]any               `pulumi:"triggers,optional" provider:"replaceOnChanges"`
	Source     types.AssetOrArchive `pulumi:"source"`
	RemotePath string               `pulumi:"remotePath"`
}

// CopyToRemoteOutputs are its inputs.
type CopyToRemoteOutputs struct{ CopyToRemoteInputs }

func (c CopyToRemoteInputs) hash() string {
	if c.Source.Archive != nil {
		return c.Source.Archive.Hash
	}
	return c.Source.Asset.Hash
}

// Check refuses a source that can't be copied.
func (*CopyToRemote) Check(
	ctx context.Context, request infer.CheckRequest,
) (infer.CheckResponse[CopyToRemoteInputs], error) {
	inputs, failures, err := infer.DefaultCheck[CopyToRemoteInputs](ctx, request.NewInputs)
	asset, archive := inputs.Source.Asset, inputs.Source.Archive
	copied := asset != nil && (asset.IsPath() || asset.IsText()) || archive != nil && archive.IsPath()
	if err == nil && !copied && !request.NewInputs.Get("source").HasComputed() {
		failures = append(failures, p.CheckFailure{
			Property: "source", Reason: "must be a file, a text or a folder: FileAsset, StringAsset or FileArchive",
		})
	}
	return infer.CheckResponse[CopyToRemoteInputs]{Inputs: inputs, Failures: failures}, err
}

// Create copies.
func (*CopyToRemote) Create(
	ctx context.Context, request infer.CreateRequest[CopyToRemoteInputs],
) (infer.CreateResponse[CopyToRemoteOutputs], error) {
	id, err := resource.NewUniqueHex("", 8, 0)
	if err == nil && !request.DryRun {
		err = request.Inputs.copy(ctx)
	}
	return infer.CreateResponse[CopyToRemoteOutputs]{ID: id, Output: CopyToRemoteOutputs{request.Inputs}}, err
}

// Update copies again if the content or its place has changed; a new connection alone copies nothing.
func (*CopyToRemote) Update(
	ctx context.Context, request infer.UpdateRequest[CopyToRemoteInputs, CopyToRemoteOutputs],
) (infer.UpdateResponse[CopyToRemoteOutputs], error) {
	var err error
	olds, news := request.State.CopyToRemoteInputs, request.Inputs
	if !request.DryRun && (olds.hash() != news.hash() || olds.RemotePath != news.RemotePath) {
		err = news.copy(ctx)
	}
	return infer.UpdateResponse[CopyToRemoteOutputs]{Output: CopyToRemoteOutputs{news}}, err
}

func (c CopyToRemoteInputs) copy(ctx context.Context) error {
	client, err := c.Connection.Dial(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	host, err := sftp.NewClient(client)
	if err != nil {
		return fmt.Errorf("the SSH server offers no sftp: %w", err)
	}
	defer host.Close()

	place := c.RemotePath
	info, err := host.Stat(place)
	isFolder := err == nil && info.IsDir()
	if asset := c.Source.Asset; asset != nil && asset.IsText() {
		if isFolder {
			return fmt.Errorf("remotePath %s is a folder; a text needs the path of a file", place)
		}
		return write(host, strings.NewReader(asset.Text), place)
	}
	source := c.source()
	info, err = os.Stat(source)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		if isFolder {
			place = path.Join(place, filepath.Base(source))
		}
		return writeFile(host, source, place)
	}
	// As with rsync: a trailing slash means what is in the folder, none the folder itself.
	if !strings.HasSuffix(source, "/") {
		place = path.Join(place, filepath.Base(source))
	}
	return fs.WalkDir(os.DirFS(source), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return host.MkdirAll(path.Join(place, name))
		}
		return writeFile(host, filepath.Join(source, name), path.Join(place, name))
	})
}

func (c CopyToRemoteInputs) source() string {
	if c.Source.Archive != nil {
		return c.Source.Archive.Path
	}
	return c.Source.Asset.Path
}

func writeFile(host *sftp.Client, source, place string) error {
	file, err := os.Open(source)
	if err != nil {
		return err
	}
	defer file.Close()
	return write(host, file, place)
}

func write(host *sftp.Client, content io.Reader, place string) error {
	if err := host.MkdirAll(path.Dir(place)); err != nil {
		return fmt.Errorf("remote folder of %s: %w", place, err)
	}
	file, err := host.Create(place)
	if err != nil {
		return fmt.Errorf("remote file %s: %w", place, err)
	}
	_, err = file.ReadFrom(content)
	if closed := file.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return fmt.Errorf("remote file %s: %w", place, err)
	}
	return nil
}
