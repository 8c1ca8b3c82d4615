"""Ways in which a checkpoint on disk comes to harm."""


def data_files(folder):
    # All of them: the largest holds what an early flush wrote, too, which nothing reads again.
    return [path for path in folder.rglob("*") if path.is_file() and path.parent.name == "d"]


def flip_a_byte(folder):
    """One in each file of numbers."""
    for file in data_files(folder):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 16
        file.write_bytes(content)


def cut(folder):
    """Each file of numbers to half of it."""
    for file in data_files(folder):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
