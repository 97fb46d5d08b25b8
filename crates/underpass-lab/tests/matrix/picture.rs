//! Pictures that are shown at one end and looked for at the other, as `xwd` and `xwud` have them (X Window Dump, version 7).

/// Colours in a row, and rows.
const COLUMNS: usize = 8;
const ROWS: usize = 6;
/// Edge of a square of one colour, in pixels.
const EDGE: usize = 40;
/// The fields of the header, each of four bytes, most significant first.
const FIELDS: usize = 25;

/// Squares in colours that no program draws by itself.
pub(crate) struct Picture([[u8; 3]; COLUMNS * ROWS]);

/// What a screen shows.
struct Screen<'a> {
    bytes: &'a [u8],
    width: usize,
    height: usize,
    /// Bytes from one line to the next.
    stride: usize,
}

impl Picture {
    /// The same picture for the same seed.
    pub(crate) fn new(seed: u32) -> Self {
        let mut state = seed;
        Self(std::array::from_fn(|_| {
            // A linear congruential generator with the constants of C's standard; its lowest byte is left out.
            state = state.wrapping_mul(1_103_515_245).wrapping_add(12_345);
            let [high, middle, low, _] = state.to_be_bytes();
            [high, middle, low]
        }))
    }

    /// A dump of the picture, for `xwud`.
    pub(crate) fn dump(&self) -> Vec<u8> {
        let (width, height) = (COLUMNS * EDGE, ROWS * EDGE);
        let name = b"picture\0";
        let numbers = |number: usize| u32::try_from(number).expect("a small picture");
        let fields: [u32; FIELDS] = [
            numbers(FIELDS * 4 + name.len()),
            7,
            2, // ZPixmap
            24,
            numbers(width),
            numbers(height),
            0,
            0, // least significant byte first
            32,
            0,
            32,
            32,
            numbers(width * 4),
            4, // TrueColor
            0xff_0000,
            0xff00,
            0xff,
            8,
            256,
            0,
            numbers(width),
            numbers(height),
            0,
            0,
            0,
        ];
        let mut bytes: Vec<u8> = fields
            .iter()
            .flat_map(|field| field.to_be_bytes())
            .collect();
        bytes.extend(name);
        for y in 0..height {
            for x in 0..width {
                let [red, green, blue] = self.0[y / EDGE * COLUMNS + x / EDGE];
                bytes.extend([blue, green, red, 0]);
            }
        }
        bytes
    }

    /// Whether the picture is somewhere in the dump of a screen.
    pub(crate) fn is_in(&self, dump: &[u8]) -> bool {
        let Some(screen) = Screen::read(dump) else {
            return false;
        };
        let (across, down) = (
            screen.width.saturating_sub(COLUMNS * EDGE),
            screen.height.saturating_sub(ROWS * EDGE),
        );
        (0..=down).any(|y| (0..=across).any(|x| self.is_at(&screen, x, y)))
    }

    /// Looks into the corners of every square.
    fn is_at(&self, screen: &Screen, left: usize, top: usize) -> bool {
        self.0.iter().enumerate().all(|(number, colour)| {
            let (x, y) = (
                left + number % COLUMNS * EDGE,
                top + number / COLUMNS * EDGE,
            );
            [(0, 0), (EDGE - 1, EDGE - 1)]
                .iter()
                .all(|(right, down)| screen.pixel(x + right, y + down) == Some(*colour))
        })
    }
}

impl<'a> Screen<'a> {
    fn read(dump: &'a [u8]) -> Option<Self> {
        let field = |at: usize| -> Option<usize> {
            let bytes = dump.get(at * 4..)?.first_chunk()?;
            usize::try_from(u32::from_be_bytes(*bytes)).ok()
        };
        // Only what X servers of today give: 32 bits for each pixel, blue first.
        if (field(7)?, field(11)?) != (0, 32) {
            return None;
        }
        Some(Self {
            // Each of the colours takes twelve bytes.
            bytes: dump.get(field(0)? + field(19)? * 12..)?,
            width: field(4)?,
            height: field(5)?,
            stride: field(12)?,
        })
    }

    fn pixel(&self, x: usize, y: usize) -> Option<[u8; 3]> {
        let [blue, green, red] = *self.bytes.get(y * self.stride + x * 4..)?.first_chunk()?;
        Some([red, green, blue])
    }
}
